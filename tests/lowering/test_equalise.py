"""Channel equalisation: the same network in exact arithmetic, a better one in INT8, and still INT8 kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import SWAPPER_SHAPES, Net, feeds, ranges, run, swapper

from trt_facefusion.calibration.channels import channel_amax
from trt_facefusion.graph import GraphView, prepare
from trt_facefusion.lowering import lower
from trt_facefusion.lowering.equalise import candidates, equalised_name, exponents, reciprocals, with_divisions
from trt_facefusion.precision import plan_by_rules
from trt_facefusion.types import Precision


def uneven(scale: float = 100.0) -> onnx.ModelProto:
    """A convolution that reads two branches of very different range, as behind a skip connection."""
    net = Net(1)
    small = net.conv("x", 3, 8, name="small")
    large = net.op("Mul", net.conv("x", 3, 8, name="large"), net.const(scale))
    both = net.op("Concat", large, small, name="both", axis=1)
    mixed = net.conv(both, 16, 8, 1, name="mixed")
    # What reads the large channels weighs little, so that both branches matter alike.
    weight = next(w for w in net.weights if list(w.dims) == [8, 16, 1, 1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, :8] /= scale
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    out = net.op("Sigmoid", net.conv(mixed, 8, 3, name="head"), name="y")
    return net.model({"x": ["N", 3, 16, 16]}, {out: ["N", 3, 16, 16]})


def equalised_pair(source: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]):
    model = prepare(source, shapes).model
    view, inputs = GraphView(model), feeds(shapes, batch=4)
    by_tensor = exponents(view, channel_amax(model, list(candidates(view)), [inputs]))
    amax = ranges(onnx.shape_inference.infer_shapes(with_divisions(model, by_tensor)), inputs)
    return view, inputs, by_tensor, amax


def test_the_divided_tensors_change_no_output() -> None:
    view, inputs, by_tensor, _ = equalised_pair(uneven(), {"x": (3, 16, 16)})
    before, after = run(view.model, inputs), run(with_divisions(view.model, by_tensor), inputs)
    np.testing.assert_array_equal(before["y"], after["y"])


def test_a_small_branch_behind_a_concat_keeps_its_detail() -> None:
    view, inputs, by_tensor, amax = equalised_pair(uneven(), {"x": (3, 16, 16)})
    plan = plan_by_rules(view, amax, "net")
    exact = run(view.model, inputs)["y"]
    errors = [
        np.abs(run(lower(view, plan, amax, Precision.FP32, factors), inputs)["y"] - exact).mean()
        for factors in ({}, by_tensor)
    ]
    assert errors[1] < errors[0] / 3


def test_factors_leave_the_typical_channel_alone_and_dead_ones_too() -> None:
    view, _, by_tensor, _ = equalised_pair(uneven(), {"x": (3, 16, 16)})
    values = by_tensor["both"].astype(int)
    assert abs(values.mean()) < 1
    assert values[:8].min() > values[8:].max()
    dead = exponents(view, {"both": np.zeros(16, np.float32)})
    assert "both" not in dead


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_factors_are_exact_in_fp16(values: list[int]) -> None:
    factors = reciprocals(np.array(values, np.int8))
    assert (factors.astype(np.float16).astype(np.float32) == factors).all()
    assert np.log2(factors).ravel().tolist() == [-v for v in values]


def test_a_raised_node_is_not_divided() -> None:
    view, _, by_tensor, amax = equalised_pair(uneven(), {"x": (3, 16, 16)})
    plan = plan_by_rules(view, amax, "net")
    assert equalised_name("both") in {
        o for n in lower(view, plan, amax, exponents=by_tensor).graph.node for o in n.output
    }
    raised = lower(view, plan.raised({"mixed": "why not"}), amax, exponents=by_tensor)
    assert equalised_name("both") not in {o for n in raised.graph.node for o in n.output}


def test_grouped_convolutions_and_linears_are_left_alone() -> None:
    net = Net()
    x = net.conv("x", 4, 8, name="plain")
    net.conv(x, 8, 8, name="grouped", group=2)
    net.conv(x, 8, 8, name="beside")
    y = net.op("Add", "grouped", "beside", name="y")
    view = GraphView(prepare(net.model({"x": ["N", 4, 8, 8]}, {y: ["N", 8, 8, 8]}), {"x": (4, 8, 8)}).model)
    assert list(candidates(view)) == ["x"]


def test_the_compiler_keeps_the_int8_kernels() -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'trt-facefusion[rtx]'")
    from trt_facefusion.backends.base import BuildRequest
    from trt_facefusion.backends.kernels import int8_coverage
    from trt_facefusion.backends.tensorrt_rtx import TensorRtRtx

    view, _, by_tensor, amax = equalised_pair(swapper(width=16), dict(SWAPPER_SHAPES))
    plan = plan_by_rules(view, amax, "swapper")
    model = lower(view, plan, amax, exponents=by_tensor)
    assert any(node.name.endswith("__equalise") for node in model.graph.node)
    shapes = {name: ((1, *shape),) * 3 for name, shape in SWAPPER_SHAPES.items()}
    engine = TensorRtRtx().build(BuildRequest(model.SerializeToString(), shapes, "sm86"))
    planned = {node.name: node.op for node in plan.nodes if node.precision is Precision.INT8}
    assert int8_coverage(planned, engine.kernels).missing == ()
