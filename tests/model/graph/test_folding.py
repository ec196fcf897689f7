from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from nets import Net, feeds, run
from onnx import TensorProto, helper, numpy_helper
from test_prepare import PICTURE, assert_same, picture_net

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph import prepare


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in prepare(model, PICTURE).model.graph.node]


def refused(model: onnx.ModelProto) -> str:
    started = time.monotonic()
    with pytest.raises(ModelError) as error:
        prepare(model, PICTURE)
    assert time.monotonic() - started < 30
    return error.value.message


def ints(net: Net, *values: int) -> str:
    return net.const(values, np.int64)


# --- constants of odd types -------------------------------------------------------------------------------------------


def test_a_constant_that_is_cast_like_an_activation_stays_a_constant() -> None:
    net = Net()
    lowest = net.op("CastLike", net.const(-np.inf, np.float64), "x")
    masked = net.op("Where", net.op("Equal", "x", lowest), net.const(0.0), "x")
    assert operators(picture_net(net, net.conv(masked, 3, 3, name="last"))) == ["Equal", "Where", "Conv"]


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.INT4, TensorProto.UINT4]
)
def test_weights_in_small_types_are_widened(kind: int) -> None:
    net = Net()
    values = np.random.default_rng(0).integers(0, 7, 3 * 3 * 9).tolist()
    net.weights.append(helper.make_tensor("small", kind, (3, 3, 3, 3), values))
    weights = net.op("Cast", "small", to=TensorProto.FLOAT)
    model = picture_net(net, net.op("Conv", "x", weights, pads=[1] * 4, name="last"), opset=21)
    assert [node.op_type for node in assert_same(model, PICTURE).nodes.values()] == ["Conv"]


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_shape_is_used_though_the_batch_is_not() -> None:
    """Padding to a multiple of 16, as the legacy exporter writes it: through floats, slices and several rounds."""
    net = Net()
    shape = net.op("Shape", net.conv("x", 3, 3))
    height = net.op("Gather", shape, net.const(2, np.int64))
    missing = net.op("Mod", net.op("Sub", net.const(16, np.int64), height), net.const(16, np.int64))
    pads = net.op(
        "Concat", ints(net, 0, 0, 0, 0, 0, 0), net.op("Unsqueeze", missing, ints(net, 0)), ints(net, 8), axis=0
    )
    x = net.op("Pad", "x", pads)
    half = net.op("Cast", net.op("Slice", net.op("Shape", x), ints(net, 2), ints(net, 4)), to=TensorProto.FLOAT)
    sizes = net.op("Cast", net.op("Floor", net.op("Mul", half, net.const(0.55))), to=TensorProto.INT64)
    sizes = net.op("Concat", net.op("Slice", net.op("Shape", x), ints(net, 0), ints(net, 2)), sizes, axis=0)
    y = net.op("Resize", x, "", "", sizes, mode="linear")
    view = assert_same(picture_net(net, net.conv(y, 3, 4, name="last")), PICTURE)
    assert view.shape("last")[1:] == (4, 8, 8)
    kinds = {node.op_type for node in view.nodes.values()}
    assert kinds.isdisjoint({"Floor", "Cast", "Mod", "Gather", "Unsqueeze"})


def test_a_value_that_depends_on_the_batch_is_not_folded() -> None:
    net = Net()
    batch = net.op("Gather", net.op("Shape", "x"), net.const(0, np.int64))
    scale = net.op("Cast", net.op("Min", batch, net.const(3, np.int64)), to=TensorProto.FLOAT)
    model = picture_net(net, net.op("Mul", "x", scale))
    for batch_size in (1, 2, 5):
        inputs = feeds(PICTURE, batch_size)
        for name, array in run(model, inputs).items():
            np.testing.assert_array_equal(run(prepare(model, PICTURE).model, inputs)[name], array)


@pytest.mark.parametrize(
    "constant",
    [
        {"value": numpy_helper.from_array(np.float32(2.0))},
        {"value": numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32))},
        {"value": numpy_helper.from_array(np.ones((2, 0), np.float32))},
        {"value_float": 2.0},
        {"value_floats": [1.0] * 8},
    ],
)
def test_constants_of_any_rank_are_taken(constant: dict[str, object]) -> None:
    net = Net()
    net.nodes.append(helper.make_node("Constant", [], ["c"], **constant))
    y = net.op("Add", "x", net.op("ReduceSum", "c") if 0 in getattr(constant.get("value"), "dims", ()) else "c")
    assert_same(picture_net(net, y), PICTURE)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float64, np.uint8, np.bool_, np.float16, np.int8])
def test_constants_of_any_type_are_folded(kind: type) -> None:
    net = Net()
    net.nodes.append(helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([1, 0, 1], kind))))
    y = net.op("Add", "x", net.op("ReduceMax", net.op("Cast", "c", to=TensorProto.FLOAT)))
    assert operators(picture_net(net, y)) == ["Add"]


def test_sparse_constants_are_refused_by_name() -> None:
    net = Net()
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([2]), "i"), [8])
    net.nodes.append(helper.make_node("Constant", [], ["c"], "odd", sparse_value=sparse))
    assert "'odd' is sparse" in refused(picture_net(net, net.op("Add", "x", "c")))


# --- bounds ----------------------------------------------------------------------------------------------------------


def expand(net: Net) -> str:
    return net.op(
        "ReduceMean", net.op("Expand", net.const([1.0]), ints(net, 1 << 16, 1 << 16), name="huge"), keepdims=0
    )


def tile(net: Net) -> str:
    return net.op("ReduceMean", net.op("Tile", net.const([1.0]), ints(net, 1 << 32), name="huge"), keepdims=0)


def fill(net: Net) -> str:
    return net.op("ReduceMean", net.op("ConstantOfShape", ints(net, 1 << 16, 1 << 16), name="huge"), keepdims=0)


def count(net: Net) -> str:
    long = net.op("Range", net.const(0.0), net.const(4e9), net.const(1.0), name="huge")
    return net.op("ReduceMean", long, keepdims=0)


def pad(net: Net) -> str:
    return net.op("ReduceMean", net.op("Pad", net.const([1.0]), ints(net, 0, 1 << 33), name="huge"), keepdims=0)


def outer(net: Net) -> str:
    column, row = net.const(np.ones((40_000, 1))), net.const(np.ones((1, 40_000)))
    return net.op("ReduceMean", net.op("MatMul", column, row, name="huge"), keepdims=0)


def one_hot(net: Net) -> str:
    hot = net.op("OneHot", ints(net, *range(1000)), net.const(1 << 22, np.int64), net.const([0.0, 1.0]), name="huge")
    return net.op("ReduceMean", hot, keepdims=0)


def resize(net: Net) -> str:
    wide = net.op("Resize", net.const(np.ones((1, 1, 8, 8))), "", net.const([1, 1, 4096, 4096]), name="huge")
    return net.op("ReduceMean", wide, keepdims=0)


def many(net: Net) -> str:
    """No constant is large, all together are."""
    y = net.const(0.0)
    for index in range(20):
        filled = net.op("ConstantOfShape", ints(net, 14 << 20), name=f"huge{index}")
        y = net.op("Add", y, net.op("ReduceMean", net.op("Add", filled, y), keepdims=0))
    return y


@pytest.mark.parametrize("make", [expand, tile, fill, count, pad, outer, one_hot, resize, many])
def test_constants_that_fit_no_memory_are_refused_before_they_are_made(make: Callable[[Net], str]) -> None:
    net = Net()
    message = refused(picture_net(net, net.op("Add", "x", make(net))))
    assert "huge" in message or "too many" in message
    assert "memory" in message


def test_sizes_that_double_and_double_are_refused() -> None:
    net = Net()
    y = net.op("Shape", "x")
    for _ in range(40):
        y = net.op("Concat", y, y, axis=0)
    y = net.op("Cast", net.op("ReduceMax", y, keepdims=0), to=TensorProto.FLOAT)
    assert "list of" in refused(picture_net(net, net.op("Add", "x", y)))


def test_pictures_that_are_rolled_again_and_again_are_no_sizes() -> None:
    """Swin's shifted windows: a long table of indices gathers floats that end in picture after picture."""
    net = Net()
    indices = net.const(np.arange(4096) % 16, np.int64)
    table = net.op("Reshape", net.op("Gather", net.const(np.ones(16)), indices), net.const([1, 1, 64, 64], np.int64))
    x = net.op("Add", "x", table)
    starts, ends, far = (net.const([n], np.int64) for n in (0, 32, 64))
    axis = net.const([2], np.int64)
    for _ in range(12):
        x = net.op("Concat", net.op("Slice", x, ends, far, axis), net.op("Slice", x, starts, ends, axis), axis=2)
    prepared = prepare(net.model({"x": ["N", 1, 64, 64]}, {x: ["N", 1, 64, 64]}), {"x": (1, 64, 64)})
    assert sum(node.op_type == "Concat" for node in prepared.model.graph.node) == 12


def test_an_activation_that_fits_no_memory_is_refused() -> None:
    net = Net()
    y = net.op("Expand", "x", ints(net, 1, 3, 8, 8), name="plain")
    y = net.op("Resize", y, "", net.const([1, 1, 1 << 14, 1 << 14]), name="huge")
    assert "'huge'" in refused(picture_net(net, net.op("ReduceMean", y, ints(net, 2, 3))))


@pytest.mark.parametrize("depth", [3, 40])
def test_functions_that_double_are_counted_before_they_are_inlined(depth: int) -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    net = Net()
    model = net.model({"x": ["N", 3, 8, 8]}, {net.op(f"Twice{depth}", "x", domain="local"): ["N", 3, 8, 8]})
    model.opset_import.append(opsets[1])
    for level in range(depth + 1):
        inner = {"op_type": "Relu", "domain": ""} if level == 0 else {"op_type": f"Twice{level - 1}", "domain": "local"}
        nodes = [helper.make_node(inputs=[a], outputs=[b], **inner) for a, b in (("a", "b"), ("b", "c"))]
        model.functions.append(helper.make_function("local", f"Twice{level}", ["a"], ["c"], nodes, opsets))
    if depth == 3:
        assert operators(model) == ["Relu"] * 16
    else:
        assert "nodes" in refused(model)


def test_a_function_that_calls_itself_is_named() -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    net = Net()
    model = net.model({"x": ["N", 3, 8, 8]}, {net.op("Again", "x", domain="local"): ["N", 3, 8, 8]})
    model.opset_import.append(opsets[1])
    nodes = [helper.make_node("Again", ["a"], ["b"], domain="local")]
    model.functions.append(helper.make_function("local", "Again", ["a"], ["b"], nodes, opsets))
    assert "'Again' calls itself" in refused(model)


# --- what is refused by its name -------------------------------------------------------------------------------------


def test_a_quantised_model_is_named_so() -> None:
    net = Net()
    scale, zero = net.const(0.1), net.const(0, np.int8)
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", scale, zero, name="first"), scale, zero)
    message = refused(picture_net(net, y))
    assert "quantised already" in message
    assert "'first'" in message


def test_lists_are_named() -> None:
    net = Net()
    y = net.op("ConcatFromSequence", net.op("SequenceConstruct", "x", "x", name="frames"), axis=1)
    message = refused(picture_net(net, y))
    assert "'frames'" in message
    assert "list of tensors" in message


def test_text_is_named() -> None:
    net = Net()
    net.nodes.append(helper.make_node("Constant", [], ["text"], value_strings=[b"a"]))
    net.op("RegexFullMatch", "text", name="match", pattern="(a+)+b")
    y = net.op("Add", "x", net.op("Cast", "match", to=TensorProto.FLOAT))
    assert "'match' works on text" in refused(picture_net(net, y))


@pytest.mark.parametrize("groups", [0, -2, 1 << 31, (1 << 63) - 1])
def test_an_impossible_number_of_groups_is_refused_by_name(groups: int) -> None:
    net = Net()
    scale = net.const(np.ones(3))
    y = net.op("GroupNormalization", "x", scale, scale, num_groups=groups, name="norm")
    assert "'norm' has" in refused(picture_net(net, y, opset=21))
