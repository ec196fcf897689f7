from __future__ import annotations

import numpy as np
import pytest
from nets import Net, feeds, run
from onnx import TensorProto, shape_inference

from trt_facefusion.model.graph import GraphView, holds_half, makes_indices, prepare, takes_half
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

PICTURE = {"x": (3, 8, 8)}


def view_of(net: Net, y: str) -> GraphView:
    return GraphView(prepare(net.model({"x": ["N", 3, 8, 8]}, {y: ["N", "C", "H", "W"]}), PICTURE).model)


def sized(net: Net, x: str) -> str:
    """Resizes by what is computed in floats from the batch axis, so that nothing of it is folded."""
    size = net.op("Cast", net.op("Shape", x), to=TensorProto.FLOAT, name="to_float")
    scaled = net.op("Floor", net.op("Mul", size, net.const([1, 1, 2, 2]), name="times"), name="floor")
    sizes = net.op("Cast", scaled, to=TensorProto.INT64, name="to_int")
    return net.op("Resize", x, "", "", net.op("Reshape", sizes, net.const([4], np.int64)), mode="linear", name="resize")


def test_arithmetic_of_sizes_is_in_no_plan() -> None:
    net = Net()
    nodes = {node.name for node in view_of(net, sized(net, net.conv("x", 3, 3, name="conv"))).float_nodes()}
    assert nodes == {"conv", "resize"}


def test_what_feeds_sizes_and_pictures_stays_exact_for_both() -> None:
    net = Net()
    y = sized(net, net.conv("x", 3, 3, name="conv"))
    batch = net.op("Gather", "times", net.const(0, np.int64), name="batch")
    view = view_of(net, net.op("Div", y, batch, name="divided"))
    assert not {"to_float", "times"} & {node.name for node in view.float_nodes()}
    assert "divided" in {node.name for node in view.float_nodes()}


def test_indices_from_the_picture_are_arithmetic_on_pictures() -> None:
    net = Net()
    x = net.conv("x", 3, 3, name="conv")
    rounded = net.op("Cast", net.op("Mul", net.op("ReduceMax", x), net.const(5.0)), to=TensorProto.INT64, name="cast")
    net.op("Gather", net.const(net.rng.normal(size=(9, 3, 8, 8))), net.op("Reshape", rounded, net.const([1], np.int64)))
    view = view_of(net, net.op("Add", x, net.nodes[-1].output[0]))
    assert makes_indices(view, view.nodes["cast"])
    decided = plan_by_rules(view, {}, "net").by_name()["cast"]
    assert decided.precision is Precision.FP32 and "2048" in decided.reason


def test_onnx_says_what_takes_fp16() -> None:
    net = Net()
    x = net.op("Resize", net.conv("x", 3, 3), "", net.const([1, 1, 2, 2]), mode="linear", name="resize")
    start = net.op("ReduceMax", x, keepdims=0)
    line = net.op("Range", net.const(0.0), net.op("Add", start, net.const(9.0)), net.const(1.0), name="range")
    net.op("Identity", line, name="y")
    view = GraphView(shape_inference.infer_shapes(net.model({"x": ["N", 3, 8, 8]}, {"y": ["L"]})))
    assert [takes_half(view, view.nodes["resize"], index) for index in (0, 1, 2)] == [True, False, False]
    assert not holds_half(view, view.nodes["range"]) and holds_half(view, view.nodes["resize"])


def test_pads_of_some_axes_are_written_for_all() -> None:
    net = Net()
    axes = net.const([-1, 2], np.int64)
    y = net.op("Pad", "x", net.const([1, 2, 3, -4], np.int64), "", axes, name="pad", mode="reflect")
    model = net.model({"x": ["N", 3, 8, 8]}, {y: ["N", "C", "H", "W"]})
    view = GraphView(prepare(model, PICTURE).model)
    assert view.constant(view.nodes["pad"].input[1]).tolist() == [0, 0, 2, 1, 0, 0, -4, 3]
    assert len(view.nodes["pad"].input) == 2
    inputs = feeds(PICTURE)
    np.testing.assert_array_equal(run(view.model, inputs)[y], run(model, inputs)[y])


@pytest.mark.parametrize("value", [-np.inf, np.finfo(np.float32).min, -1e35])
def test_what_a_mask_runs_through_stays_fp32(value: float) -> None:
    net = Net()
    mask = net.const(np.triu(np.full((8, 8), value), 1))
    hidden = net.op("Add", net.conv("x", 3, 3), net.op("Mul", mask, net.op("ReduceMax", "x"), name="m"), name="hidden")
    moved = net.op("Reshape", hidden, net.const([0, 0, 8, 8], np.int64), name="moved")
    view = view_of(net, net.op("MatMul", net.op("Softmax", moved, name="s"), "x"))
    plan = plan_by_rules(view, {}, "net").by_name()
    assert {plan[name].precision for name in ("m", "hidden", "moved", "s")} == {Precision.FP32}
    assert view.masked >= {"m", "hidden", "moved"} and "s" not in view.masked


def test_a_limit_that_is_no_limit_hides_nothing() -> None:
    net = Net()
    clipped = net.op("Clip", net.conv("x", 3, 3), net.const(np.finfo(np.float32).min), net.const(1.0), name="clip")
    assert "clip" not in view_of(net, clipped).masked
