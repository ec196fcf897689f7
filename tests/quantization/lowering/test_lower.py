from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from nets import SWAPPER_SHAPES, Net, feeds, ranges, run, swapper
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision

SHAPES = {"x": (3, 8, 8), "s": (16,)}


class Lowered:
    """A network, its plan by rules, and the typed ONNX that came out."""

    def __init__(
        self, model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], base: Precision = Precision.FP16, **plan: str
    ) -> None:
        self.source = prepare(model, shapes).model
        self.view = GraphView(self.source)
        self.feeds = feeds(shapes)
        self.amax = ranges(self.source, self.feeds)
        self.plan = with_precisions(plan_by_rules(self.view, self.amax, "net"), plan)
        self.model = lower(self.view, self.plan, self.amax, base)
        onnx.checker.check_model(self.model, full_check=True)
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.producer = {name: node for node in self.model.graph.node for name in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(self.model, strict_mode=True).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self.types = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in values}
        self.types |= {name: value.dtype for name, value in self.constants.items()}

    def error(self) -> float:
        expected, outputs = run(self.source, self.feeds), run(self.model, self.feeds)
        assert expected.keys() == outputs.keys()
        assert all(value.dtype == np.float32 for value in outputs.values())
        return max(float(np.abs(expected[name] - outputs[name]).max()) for name in expected)

    def ops(self, op_type: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if node.op_type == op_type]

    def dq(self, node: str, index: int) -> onnx.NodeProto:
        producer = self.producer[self.nodes[node].input[index]]
        assert producer.op_type == "DequantizeLinear"
        return producer

    def scale_of(self, node: str, index: int) -> np.ndarray:
        return self.constants[self.dq(node, index).input[1]]


def with_precisions(plan: Plan, changes: dict[str, str]) -> Plan:
    nodes = (replace(n, precision=Precision(changes.get(n.name, n.precision))) for n in plan.nodes)
    return replace(plan, nodes=tuple(nodes))


def small(body: Callable[[Net], str], base: Precision = Precision.FP16, **plan: str) -> Lowered:
    """stem -> ``body``, which starts from the tensor `stem` with 4 channels of 8 x 8 pixels -> head."""
    net = Net()
    net.conv("x", 3, 4, name="stem")
    net.conv(body(net), 4, 3, name="head")
    model = net.model({"x": ["N", 3, 8, 8], "s": ["N", 16]}, {"head": ["N", "C", "H", "W"]})
    return Lowered(model, SHAPES, base, **plan)


@pytest.fixture(scope="module")
def of_swapper() -> Lowered:
    return Lowered(swapper(), SWAPPER_SHAPES)


def test_a_swapper_keeps_its_picture_in_int8_and_fp16(of_swapper: Lowered) -> None:
    assert len(of_swapper.plan.names(Precision.INT8)) == 2 + 4 + 4 + 2
    assert 0 < of_swapper.error() < 0.05
    half = of_swapper.plan.capped(Precision.FP16)
    typed = lower(of_swapper.view, half, {})
    picture = run(typed, of_swapper.feeds)["output"]
    assert np.abs(picture - run(of_swapper.source, of_swapper.feeds)["output"]).max() < 0.005


def test_an_fp32_plan_is_the_model_itself(of_swapper: Lowered) -> None:
    assert lower(of_swapper.view, of_swapper.plan.capped(Precision.FP32), {}) == of_swapper.source


def test_inputs_and_outputs_keep_names_types_and_shapes(of_swapper: Lowered) -> None:
    assert list(of_swapper.model.graph.input) == list(of_swapper.source.graph.input)
    assert list(of_swapper.model.graph.output) == list(of_swapper.source.graph.output)


def test_every_node_computes_in_its_planned_type(of_swapper: Lowered) -> None:
    for planned in of_swapper.plan.nodes:
        dtype = np.float32 if planned.precision is Precision.FP32 else np.float16
        node = of_swapper.nodes[planned.name]
        skipped = (
            {1, 2} if node.op_type == "Resize" else {1} if node.op_type in {"Pad", "ReduceMean", "Unsqueeze"} else set()
        )
        inputs = [name for i, name in enumerate(node.input) if name and i not in skipped]
        assert {of_swapper.types[name] for name in (*inputs, *node.output)} == {np.dtype(dtype)}, planned.name


def test_int8_nodes_have_quantised_activations_and_weights_and_no_others_do(of_swapper: Lowered) -> None:
    planned = of_swapper.plan.names(Precision.INT8)
    for name in planned:
        assert of_swapper.constants[of_swapper.dq(name, 0).input[2]] == 0
        assert of_swapper.constants[of_swapper.dq(name, 1).input[0]].dtype == np.int8
    dequantised = {out for node in of_swapper.ops("DequantizeLinear") for out in node.output}
    readers = {node.name for node in of_swapper.model.graph.node if dequantised.intersection(node.input)}
    assert readers == set(planned)


def test_no_float_copy_of_a_quantised_weight_is_left(of_swapper: Lowered) -> None:
    used = {name for node in of_swapper.model.graph.node for name in node.input}
    assert used >= of_swapper.constants.keys()


def test_scales_of_activations_are_scalars(of_swapper: Lowered) -> None:
    # With a scale of shape [1] TensorRT-RTX counts the tensor as quantised per channel and drops the INT8 kernel.
    for name in of_swapper.plan.names(Precision.INT8):
        quantise = of_swapper.producer[of_swapper.dq(name, 0).input[0]]
        assert quantise.op_type == "QuantizeLinear"
        for node in (quantise, of_swapper.dq(name, 0)):
            assert [of_swapper.constants[i].shape for i in node.input[1:]] == [(), ()]


def test_weights_are_quantised_along_their_output_channels() -> None:
    net = Net()
    flat = net.linear("s", 16, 5, name="transposed")
    flat = net.op("Gemm", flat, net.const(net.rng.normal(size=(5, 6))), net.const(np.zeros(6)), name="plain")
    flat = net.op("MatMul", flat, net.const(net.rng.normal(size=(6, 4))), name="matmul")
    style = net.op("Reshape", flat, net.const([-1, 4, 1, 1], np.int64))
    y = net.conv(net.op("Add", net.conv("x", 3, 4), style), 4, 7, name="conv")
    y = net.conv(y, 7, 3)
    lowered = Lowered(net.model({"x": ["N", 3, 8, 8], "s": ["N", 16]}, {y: ["N", 3, 8, 8]}), SHAPES)
    for name, axis, size in (("conv", 0, 7), ("transposed", 0, 5), ("plain", 1, 6), ("matmul", 1, 4)):
        assert helper.get_node_attr_value(lowered.dq(name, 1), "axis") == axis
        assert lowered.scale_of(name, 1).shape == (size,)
    assert lowered.error() < 0.1


def test_one_quantiser_serves_all_int8_consumers_and_float_consumers_see_floats() -> None:
    def body(net: Net) -> str:
        relu = net.op("Relu", "stem", name="shared")
        both = net.op("Add", net.conv(relu, 4, 4, name="a"), net.conv(relu, 4, 4, name="b"))
        return net.op("Add", both, net.op("Sigmoid", relu, name="float"), name="sum")

    lowered = small(body)
    assert lowered.nodes["a"].input[0] == lowered.nodes["b"].input[0]
    assert len(lowered.ops("QuantizeLinear")) == 1
    assert lowered.nodes["float"].input[0] == "shared"


@pytest.mark.parametrize("op", ["Resize", "Concat", "Pad"])
def test_quantisers_stand_behind_what_moves_values(op: str) -> None:
    def body(net: Net) -> str:
        x = net.op("Relu", "stem")
        if op == "Resize":
            y = net.op("Resize", x, "", net.const([1, 1, 2, 2]), mode="linear", name="move")
        elif op == "Concat":
            y = net.op("Concat", x, x, axis=1, name="move")
        else:
            y = net.op("Pad", x, net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect", name="move")
        return net.conv(y, 8 if op == "Concat" else 4, 4, name="conv")

    lowered = small(body)
    quantise = lowered.producer[lowered.dq("conv", 0).input[0]]
    assert lowered.producer[quantise.input[0]].name == "move"


def fake_quantised(x: np.ndarray, amax: float) -> np.ndarray:
    scale = np.float32(amax) / np.float32(127)
    return np.clip(np.rint(x / scale), -127, 127).astype(np.float32) * scale


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    size = weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    return np.einsum("ncyxij,ocij->noyx", windows.astype(np.float64), weight.astype(np.float64)) + bias[:, None, None]


@pytest.mark.parametrize("exact", [True, False])
def test_int8_computes_what_quantisation_says(exact: bool) -> None:
    lowered = small(lambda net: net.op("Relu", net.conv("stem", 4, 4, name="conv")), base=Precision.FP32)
    assert lowered.plan.names(Precision.INT8) == ("conv",)
    params = {name: [lowered.view.constant(i) for i in node.input[1:]] for name, node in lowered.view.nodes.items()}
    weight, bias = params["conv"]
    quantised = np.stack([fake_quantised(channel, np.abs(channel).max()) for channel in weight])
    x = convolved(lowered.feeds["x"], *params["stem"]).astype(np.float32)
    x = np.maximum(convolved(fake_quantised(x, lowered.amax["stem"]), quantised, bias), 0)
    expected = convolved(x, *params["head"])
    output = run(lowered.model, lowered.feeds, exact)["head"]
    # A value that lies on the border between two steps may fall to either side: compare all but a few.
    differences = np.sort(np.abs(output - expected).ravel())
    assert differences[int(0.9 * differences.size)] < 1e-5
    assert differences[-1] < lowered.amax["stem"] / 127


def split(net: Net, x: str) -> str:
    return net.op("Concat", net.op("Split", x, axis=1, num_outputs=2, outputs=2, name="it"), "it.1", axis=1)


def group_norm(net: Net, x: str) -> str:
    return net.op("GroupNormalization", x, net.const([1, 2]), net.const([0, 1]), num_groups=2, name="it")


def pad(net: Net, x: str) -> str:
    pads, axes = net.const([1, 1], np.int64), net.const([2], np.int64)
    return net.op("Pad", x, pads, net.const(0.5), axes, name="it")


def resize_to_sizes(net: Net, x: str) -> str:
    sizes = net.op("Concat", net.op("Shape", x, start=0, end=2), net.const([9, 9], np.int64), axis=0)
    return net.op("Resize", x, "", "", sizes, name="it")


def reshape_by_batch(net: Net, x: str) -> str:
    batch = net.op("Gather", net.op("Shape", x), net.const([0], np.int64))
    shape = net.op("Concat", batch, net.const([4, 4, 16], np.int64), axis=0)
    return net.op("Reshape", net.op("Relu", x), shape, name="it")


def expand(net: Net, x: str) -> str:
    peak = net.op("ReduceMax", x, net.const([2, 3], np.int64))
    return net.op("Add", x, net.op("Expand", peak, net.op("Shape", x), name="it"))


def cast(net: Net, x: str) -> str:
    mask = net.op("Greater", x, net.const(0.0), name="positive")
    return net.op("Mul", x, net.op("Cast", mask, to=TensorProto.FLOAT, name="it"))


def where(net: Net, x: str) -> str:
    return net.op("Where", net.op("Greater", x, net.const(0.0)), x, net.const(0.25), name="it")


def batch_norm(net: Net, x: str) -> str:
    values = [net.const(np.full(4, value)) for value in (1.0, 0.5, 0.1, 2.0)]
    return net.op("BatchNormalization", x, *values, name="it")


def simple(op: str, *constants: object, **attributes: object) -> Callable[[Net, str], str]:
    def make(net: Net, x: str) -> str:
        return net.op(op, x, *("" if c is None else net.const(c) for c in constants), name="it", **attributes)

    make.__name__ = op
    return make


OPERATORS = [
    split, group_norm, pad, resize_to_sizes, reshape_by_batch, expand, cast, where, batch_norm,
    simple("Concat", np.zeros((1, 0, 8, 8)), axis=1), simple("Softmax", axis=1), simple("Pow", 2.0), simple("Gelu"),
    simple("LayerNormalization", np.ones(8), np.zeros(8)), simple("InstanceNormalization", np.ones(4), np.zeros(4)),
    simple("Clip", -0.1, 0.3), simple("Clip", -0.1), simple("Clip", None, 0.3), simple("Resize", None, [1, 1, 2, 2]),
    simple("PRelu", np.full((4, 1, 1), 0.1)), simple("AveragePool", kernel_shape=[2, 2]),
    simple("MaxPool", kernel_shape=[2, 2]), simple("Transpose", perm=[0, 1, 3, 2]),
]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("make", OPERATORS, ids=lambda make: make.__name__)
def test_every_usual_operator_can_be_lowered(make: Callable[[Net, str], str], precision: str) -> None:
    lowered = small(lambda net: net.conv(make(net, "stem"), 4, 4, name="conv"), it=precision)
    assert lowered.plan.names(Precision.INT8) == ("conv",)
    assert lowered.error() < 0.15
    integers = {t.name for t in lowered.source.graph.initializer if t.data_type == TensorProto.INT64}
    assert all(lowered.constants[name].dtype == np.int64 for name in integers)
    if make.__name__ == "Resize":
        assert lowered.types[lowered.nodes["it"].input[2]] == np.float32
    if make is cast:
        assert lowered.types["it"] == (np.float16 if precision == "fp16" else np.float32)


def test_a_weight_that_an_int8_and_a_float_node_share_is_kept_in_both_forms() -> None:
    def body(net: Net) -> str:
        weight = net.const(net.rng.normal(size=(4, 4, 1, 1)))
        first = net.op("Conv", "stem", weight, name="first")
        return net.op("Conv", net.op("Conv", first, weight, name="second"), weight, name="third")

    for plan in ({"first": "fp16"}, {"second": "fp16"}, {"third": "fp32"}, {"first": "fp32", "third": "fp16"}):
        lowered = small(body, **plan)
        assert lowered.error() < 0.5
        assert len([t for t in lowered.constants.values() if t.dtype == np.int8 and t.ndim == 4]) == 1


def test_an_output_that_is_used_inside_too_stays_fp32_outside() -> None:
    net = Net()
    features = net.conv(net.conv("x", 3, 4, name="stem"), 4, 4, name="features")
    net.conv(net.conv(features, 4, 4), 4, 3, name="head")
    model = net.model({"x": ["N", 3, 8, 8]}, {"head": ["N", 3, 8, 8], "features": ["N", 4, 8, 8]})
    assert Lowered(model, {"x": (3, 8, 8)}).error() < 0.2


def test_half_precision_files_can_be_lowered() -> None:
    net = Net()
    stem = net.op("Cast", net.conv("x", 3, 4), to=TensorProto.FLOAT16)
    weight, bias = net.const(net.rng.normal(size=(4, 4, 1, 1)), np.float16), net.const(np.zeros(4), np.float16)
    half = net.op("Conv", stem, weight, bias, name="conv")
    net.conv(net.op("Cast", half, to=TensorProto.FLOAT), 4, 3, name="head")
    source = prepare(net.model({"x": ["N", 3, 8, 8]}, {"head": ["N", 3, 8, 8]}), {"x": (3, 8, 8)}).model
    view, inputs = GraphView(source), feeds({"x": (3, 8, 8)})
    plan = plan_by_rules(view, {}, "net")
    assert plan.names(Precision.INT8) == ("conv",)
    output = run(lower(view, plan, dict.fromkeys(view.producer, 4.0)), inputs)["head"]
    assert np.abs(output - run(source, inputs)["head"]).max() < 0.1


@pytest.mark.parametrize("amax", [None, float("nan"), float("inf"), -1.0])
def test_a_missing_or_senseless_range_is_an_error(of_swapper: Lowered, amax: float | None) -> None:
    tensor = of_swapper.view.nodes["down2"].input[0]
    amaxes = {name: value for name, value in of_swapper.amax.items() if name != tensor}
    with pytest.raises(CalibrationCacheError, match=tensor) as error:
        lower(of_swapper.view, of_swapper.plan, amaxes if amax is None else {**amaxes, tensor: amax})
    assert "--recalibrate" in error.value.remedy


def test_a_tensor_that_is_always_zero_can_be_quantised(of_swapper: Lowered) -> None:
    tensor = of_swapper.view.nodes["down2"].input[0]
    lower(of_swapper.view, of_swapper.plan, {**of_swapper.amax, tensor: 0.0})


def test_the_result_does_not_depend_on_the_run(of_swapper: Lowered) -> None:
    again = lower(of_swapper.view, of_swapper.plan, of_swapper.amax)
    assert again.SerializeToString() == of_swapper.model.SerializeToString()
