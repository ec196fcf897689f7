from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nets import Net, ranges, run
from snippets import SHAPE, SNIPPETS

from trt_facefusion.engine.runtime.half import round_to_fp16
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import lower, lower_to_integers
from trt_facefusion.quantization.lowering.scales import add_scale_inputs, make_scale_feeds
from trt_facefusion.quantization.lowering.switch import SWITCHES, add_switches
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Array, Precision

FED = {"x": np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)}
_JUMPS = {"Ceil", "Floor", "Hardmax", "Round", "Sign", "casts", "codebook", "one_hot", "elementwise", "ThresholdedRelu"}
"""Where the least difference of an input may change the output by a whole step."""


def network(names: Sequence[str], opset: int = 20) -> tuple[onnx.ModelProto, GraphView]:
    net = Net()
    x = net.conv("x", 4, 4)
    for name in names:
        x = net.op("Relu", SNIPPETS[name](net, net.conv(x, 4, 4, 1)))
    model = net.model({"x": list(SHAPE)}, {net.op("Tanh", net.conv(x, 4, 4)): list(SHAPE)}, opset=opset)
    return model, GraphView(prepare(model, {"x": SHAPE[1:]}).model)


def planned(view: GraphView) -> tuple[Plan, dict[str, float]]:
    amax = ranges(view.model, FED)
    return plan_by_rules(view, amax, "net"), amax


def assert_lowered(names: Sequence[str], tolerance: float) -> None:
    """All plans give a graph that onnxruntime runs, and FP16's is near the model, also where it is really rounded."""
    model, view = network(names)
    (expected,) = run(model, FED).values()
    plan, amax = planned(view)
    for precision in Precision:
        typed = lower(view, plan.capped(precision), amax)
        for tried in (typed, round_to_fp16(typed)):
            (result,) = run(tried, FED).values()
            assert result.dtype == np.float32 and np.isfinite(result).all()
            if precision is not Precision.INT8 and not _JUMPS.intersection(names):
                np.testing.assert_allclose(result, expected, atol=tolerance)
    run(lower_to_integers(view, plan, amax), FED)
    assert_measured(view, plan, amax, None if _JUMPS.intersection(names) else expected)


def assert_measured(view: GraphView, plan: Plan, amax: dict[str, float], expected: Array | None) -> None:
    """The models that try plans and scales in one session run as well; with nothing in INT8 they are the model."""
    exact = lower(view, plan, amax, Precision.FP32)
    scaled, inputs = add_scale_inputs(deepcopy(exact))
    np.testing.assert_array_equal(
        *(
            next(iter(run(m, FED | f, exact=True).values()))
            for m, f in ((exact, {}), (scaled, make_scale_feeds(inputs, amax, {})))
        )
    )
    groups = [[name] for name in plan.names(Precision.INT8)]
    if not groups:
        return
    model = add_switches(view, exact, groups)
    for on in (False, True):
        (result,) = run(model, FED | {SWITCHES: np.full(len(groups), on)}).values()
        if not on and expected is not None:
            np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("name", SNIPPETS)
def test_every_operator_is_lowered(name: str) -> None:
    assert_lowered([name], 0.02)


@settings(max_examples=15, deadline=None)
@example(["Erf", "casts"])  # fused, what is cast to integers falls on the other side of a step
@example(["Atan", "conv_1d"])  # fused, constant scales round otherwise than those that are fed
@given(st.lists(st.sampled_from(sorted(SNIPPETS)), min_size=2, max_size=5))
def test_networks_of_any_operators_are_lowered(names: list[str]) -> None:
    assert_lowered(names, 2.0)  # errors may grow from one to the next
