"""Networks after public reports, rebuilt from nothing: each once was refused, or silently changed, by reading it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from nets import Net, feeds, run
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.model.graph import prepare

SHAPES = {"x": (3, 16, 16)}
Middle = Callable[[Net, str], str]


def generator(middle: Middle, opset: int, batch: int | str = "N") -> onnx.ModelProto:
    """Convolution, what is tried, convolution."""
    net = Net()
    y = middle(net, net.op("Relu", net.conv("x", 3, 8)))
    y = net.op("Tanh", net.conv(y, 8, 3))
    return net.model({"x": [batch, 3, 16, 16]}, {y: [batch, 3, 16, 16]}, opset=opset, ir=9 if opset > 12 else 6)


def pooled_resize(net: Net, x: str) -> str:
    half = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.op("Resize", half, net.const([1, 1, 2, 2]), mode="linear")


def pooled_upsample(net: Net, x: str) -> str:
    half = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.op("Upsample", half, net.const([1, 1, 2, 2]), mode="linear")


def empty_bias(net: Net, x: str) -> str:
    return net.op("Conv", x, net.const(net.rng.normal(size=(8, 8, 3, 3)) / 8), "", pads=[1] * 4)


def bias_from_the_picture(net: Net, x: str) -> str:
    style = net.op("ReduceMean", x, net.const([0, 2, 3], np.int64), keepdims=0)
    return net.op("Conv", x, net.const(net.rng.normal(size=(8, 8, 3, 3)) / 8), style, pads=[1] * 4)


def scalar_activation(net: Net, x: str) -> str:
    return net.op("Div", x, net.op("ReduceMax", net.op("Abs", x), keepdims=0))


def mask(net: Net, x: str, hidden: float = -3.4028235e38) -> str:
    causal = np.triu(np.full((1, 1, 16, 16), hidden), 1)
    return net.op("Mul", x, net.op("Softmax", net.op("Add", x, net.const(np.nan_to_num(causal, nan=0))), axis=-1))


def infinite_mask(net: Net, x: str) -> str:
    causal = np.triu(np.full((16, 16), -np.inf), 1)
    return net.op("Mul", x, net.op("Softmax", net.op("Add", x, net.const(causal)), axis=-1))


def squeeze_if_one(net: Net, x: str) -> str:
    """torch.jit's `squeeze(1)`: a branch on a size that never changes."""
    value_info = helper.make_tensor_value_info
    mean = net.op("ReduceMean", x, axes=[1])
    axis = net.const([1], np.int64)
    out = [value_info("a", TensorProto.FLOAT, None), value_info("b", TensorProto.FLOAT, None)]
    then = helper.make_graph([helper.make_node("Squeeze", [mean, axis], ["a"])], "then", [], out[:1])
    other = helper.make_graph([helper.make_node("Identity", [mean], ["b"])], "else", [], out[1:])
    size = net.op("Gather", net.op("Shape", mean), net.const(1, np.int64))
    branches = net.op("If", net.op("Equal", size, net.const(1, np.int64)), then_branch=then, else_branch=other)
    return net.op("Mul", x, net.op("Unsqueeze", branches, axis))


def pad_to_sixteen(net: Net, x: str) -> str:
    """NAFNet in the legacy exporter's words: pads assembled by ConstantOfShape, Reshape, Slice and Transpose."""
    missing = net.op("Sub", net.const(24, np.int64), net.op("Gather", net.op("Shape", x), net.const(3, np.int64)))
    padded = net.op(
        "Concat", net.const([0], np.int64), net.op("Unsqueeze", missing, axes=[0]), net.const([0, 0], np.int64), axis=0
    )
    rest = net.op("ConstantOfShape", net.const([4], np.int64), value=numpy_helper.from_array(np.zeros(1, np.int64)))
    rows = net.op("Reshape", net.op("Concat", padded, rest, axis=0), net.const([-1, 2], np.int64))
    turned = net.op(
        "Slice",
        rows,
        net.const([-1], np.int64),
        net.const([-100], np.int64),
        net.const([0], np.int64),
        net.const([-1], np.int64),
    )
    pads = net.op("Reshape", net.op("Transpose", turned, perm=[1, 0]), net.const([-1], np.int64))
    wide = net.conv(net.op("Pad", x, net.op("Cast", pads, to=TensorProto.INT64)), 8, 8)
    return net.op("Slice", wide, net.const([0], np.int64), net.const([16], np.int64), net.const([3], np.int64))


CASES: list[tuple[Middle, int, int | str]] = [
    (pooled_resize, 10, "N"),
    (pooled_upsample, 9, "N"),
    (empty_bias, 20, "N"),
    (bias_from_the_picture, 20, 1),
    (scalar_activation, 17, 1),
    (mask, 20, "N"),
    (infinite_mask, 20, "N"),
    (squeeze_if_one, 13, "N"),
    (pad_to_sixteen, 11, "N"),
]


@pytest.mark.parametrize(("middle", "opset", "batch"), CASES, ids=[case[0].__name__ for case in CASES])
def test_what_was_reported_is_prepared_and_stays_the_same(middle: Middle, opset: int, batch: int | str) -> None:
    model = generator(middle, opset, batch)
    inputs = feeds(SHAPES, 2 if batch == "N" else 1)
    prepared = prepare(model, SHAPES).model
    expected, outputs = run(model, inputs), run(prepared, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, atol=1e-6)
    arithmetic = {"If", "Gather", "Equal", "Shape", "ConstantOfShape", "Cast", "Concat"}
    assert arithmetic.isdisjoint(node.op_type for node in prepared.graph.node)


def test_a_group_normalisation_in_fp16_is_prepared_in_fp32() -> None:
    def middle(net: Net, x: str) -> str:
        half = net.op("Cast", x, to=TensorProto.FLOAT16)
        scale, bias = net.const(np.arange(1, 9), np.float16), net.const(np.zeros(8), np.float16)
        return net.op("Cast", net.op("GroupNormalization", half, scale, bias, num_groups=4), to=TensorProto.FLOAT)

    model = generator(middle, 21)
    prepared = prepare(model, SHAPES).model
    inputs = feeds(SHAPES)
    for name, array in run(model, inputs).items():
        np.testing.assert_allclose(run(prepared, inputs)[name], array, atol=5e-3)  # the file computes in FP16
    assert {t.data_type for t in prepared.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}


def test_preparing_twice_gives_the_same_bytes() -> None:
    for middle, opset, batch in CASES:
        model = generator(middle, opset, batch)
        first, second = (prepare(model, SHAPES).model.SerializeToString() for _ in range(2))
        assert first == second
