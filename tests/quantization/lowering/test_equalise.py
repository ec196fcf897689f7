"""Channel equalisation: the same network in exact arithmetic, a better one in INT8, and still INT8 kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SWAPPER_SHAPES, Net, feeds, ranges, run, swapper

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration import collect
from trt_facefusion.quantization.calibration.channels import ChannelRanges, measure_channel_ranges
from trt_facefusion.quantization.correction.channel_affine import Affine, name_equalised
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.equalise import (
    equalise_model,
    find_channel_affines,
    find_equalisable,
    make_scaled_tensors,
)
from trt_facefusion.quantization.precision import plan_by_rules
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


def equalised_pair(source: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], *, shift: bool = True):
    model = prepare(source, shapes).model
    view, inputs = GraphView(model), feeds(shapes, batch=4)
    affines = find_channel_affines(
        view, measure_channel_ranges(model, list(find_equalisable(view)), [inputs]), shift=shift
    )
    behind = collect(model, list(affines), [inputs], scaled=make_scaled_tensors(affines))
    amax = ranges(model, inputs) | {name: histogram.amax for name, histogram in behind.items()}
    return view, inputs, affines, amax


def rectified(strides: int = 1) -> onnx.ModelProto:
    """Padded convolutions behind rectifiers, one tensor read with two paddings, one bias missing."""
    net = Net(2)
    x = net.op("Relu", net.conv("x", 3, 16, name="first"))
    wide = net.conv(x, 16, 8, name="wide", strides=[strides] * 2, pads=[1, 1, 1, 1])
    weight = net.const(net.rng.normal(0, 0.2, (8, 16, 1, 1)))
    narrow = net.op("Conv", x, weight, name="narrow", strides=[strides] * 2)
    y = net.op("LeakyRelu", net.op("Add", wide, narrow), alpha=0.2)
    out = net.op("Sigmoid", net.conv(y, 8, 3, name="head"), name="y")
    return net.model({"x": ["N", 3, 16, 16]}, {out: ["N", 3, 16 // strides, 16 // strides]})


@pytest.mark.parametrize("strides", [1, 2])
def test_scale_and_shift_are_undone_also_at_the_border(strides: int) -> None:
    view, inputs, affines, _ = equalised_pair(rectified(strides), {"x": (3, 16, 16)})
    assert any(affine.shifts for affine in affines.values())
    model = equalise_model(view, ["wide", "narrow"], affines)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, inputs)["y"], run(view.model, inputs)["y"], atol=1e-6)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-40, 40)), min_size=16, max_size=16))
@settings(max_examples=20, deadline=None)
def test_any_scale_and_shift_is_undone(values: list[tuple[int, int]]) -> None:
    model = prepare(rectified(), {"x": (3, 16, 16)}).model
    view, inputs = GraphView(model), feeds({"x": (3, 16, 16)}, batch=1)
    exponents, offsets = np.array(values).T
    (tensor,) = set(view.nodes["wide"].input) & set(view.nodes["narrow"].input)
    affines = {tensor: Affine(exponents.astype(np.int8), (offsets / 8).astype(np.float32))}
    result = run(equalise_model(view, ["wide", "narrow"], affines), inputs)["y"]
    np.testing.assert_allclose(result, run(model, inputs)["y"], atol=2e-4)


def test_a_shift_makes_the_steps_behind_a_rectifier_finer() -> None:
    steps = []
    for shift in (False, True):
        view, _, affines, amax = equalised_pair(rectified(), {"x": (3, 16, 16)}, shift=shift)
        (tensor,) = set(view.nodes["wide"].input) & set(view.nodes["narrow"].input)
        steps.append(np.mean(amax[name_equalised(tensor)] * affines[tensor].factors))
    assert steps[1] < 0.7 * steps[0]


def test_a_small_branch_behind_a_concat_keeps_its_detail() -> None:
    view, inputs, affines, amax = equalised_pair(uneven(), {"x": (3, 16, 16)})
    plan = plan_by_rules(view, amax, "net")
    exact = run(view.model, inputs)["y"]
    errors = [
        np.abs(run(lower(view, plan, amax, Precision.FP32, applied), inputs)["y"] - exact).mean()
        for applied in ({}, affines)
    ]
    assert errors[1] < errors[0] / 3


def test_factors_leave_the_typical_channel_alone_and_dead_ones_too() -> None:
    view, _, affines, _ = equalised_pair(uneven(), {"x": (3, 16, 16)})
    values = affines["both"].exponents.astype(int)
    assert abs(values.mean()) < 1
    assert values[:8].min() > values[8:].max()
    nothing = np.zeros(16, np.float32)
    assert "both" not in find_channel_affines(view, {"both": ChannelRanges(nothing, nothing)})


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_factors_are_exact_in_fp16(values: list[int]) -> None:
    factors = Affine(np.array(values, np.int8), np.zeros(len(values), np.float32)).factors
    assert (factors.astype(np.float16).astype(np.float32) == factors).all()
    assert np.log2(factors).ravel().tolist() == values


def test_a_raised_node_is_not_divided() -> None:
    view, _, affines, amax = equalised_pair(uneven(), {"x": (3, 16, 16)})
    plan = plan_by_rules(view, amax, "net")
    assert name_equalised("both") in {o for n in lower(view, plan, amax, affines=affines).graph.node for o in n.output}
    raised = lower(view, plan.raised({"mixed": "why not"}), amax, affines=affines)
    assert name_equalised("both") not in {o for n in raised.graph.node for o in n.output}


def test_grouped_convolutions_and_linears_are_left_alone() -> None:
    net = Net()
    x = net.conv("x", 4, 8, name="plain")
    net.conv(x, 8, 8, name="grouped", group=2)
    net.conv(x, 8, 8, name="beside")
    y = net.op("Add", "grouped", "beside", name="y")
    view = GraphView(prepare(net.model({"x": ["N", 4, 8, 8]}, {y: ["N", 8, 8, 8]}), {"x": (4, 8, 8)}).model)
    assert list(find_equalisable(view)) == ["x"]


def test_the_compiler_keeps_the_int8_kernels() -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'trt-facefusion[rtx]'")
    from trt_facefusion.engine.backends.base import BuildRequest
    from trt_facefusion.engine.backends.kernels import find_int8_coverage
    from trt_facefusion.engine.backends.tensorrt_rtx import TensorRtRtx

    view, _, affines, amax = equalised_pair(swapper(width=16), dict(SWAPPER_SHAPES))
    plan = plan_by_rules(view, amax, "swapper")
    model = lower(view, plan, amax, affines=affines)
    assert any(node.name.endswith("__shift") for node in model.graph.node)
    assert any(node.name.endswith("__pad") for node in model.graph.node)
    shapes = {name: ((1, *shape),) * 3 for name, shape in SWAPPER_SHAPES.items()}
    engine = TensorRtRtx().build(BuildRequest(model.SerializeToString(), shapes, "sm86"))
    planned = {node.name: node.op for node in plan.nodes if node.precision is Precision.INT8}
    assert find_int8_coverage(planned, engine.kernels, TensorRtRtx.capabilities.math_types).missing == ()
