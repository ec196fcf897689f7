"""A switched model computes exactly what the plan does that its switches stand for."""

from __future__ import annotations

from dataclasses import replace

import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import feeds

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration.channels import ChannelRanges
from trt_facefusion.quantization.correction.channel_affine import Affines, name_equalised
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.equalise import find_channel_affines, find_equalisable
from trt_facefusion.quantization.lowering.switch import SWITCHES, add_switches
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.quantization.precision.groups import group_candidates
from trt_facefusion.types import Precision

SHAPES = nets.SWAPPER_SHAPES


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The picture; constants are folded, but no operators fused: fusions round differently in the last bit."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.fixture(scope="module")
def view() -> GraphView:
    return GraphView(prepare(nets.swapper(), SHAPES).model)


def only(plan: Plan, names: set[str]) -> Plan:
    nodes = tuple(
        replace(n, precision=Precision.INT8 if n.name in names else Precision.FP16) if n.quantisable else n
        for n in plan.nodes
    )
    return replace(plan, nodes=nodes)


@pytest.mark.parametrize("equalise", [False, True])
def test_any_plan_comes_out_bit_for_bit(view: GraphView, equalise: bool) -> None:
    inputs = feeds(SHAPES)
    amax = nets.ranges(view.model, inputs)
    factors: Affines = {}
    if equalise:
        rng = np.random.default_rng(0)
        peaks = {name: rng.uniform(0.1, 9, view.shape(name)[1]).astype(np.float32) for name in find_equalisable(view)}
        factors = find_channel_affines(view, {name: ChannelRanges(-0.1 * peak, peak) for name, peak in peaks.items()})
        assert any(affine.shifts for affine in factors.values())
        amax |= {name_equalised(name): amax[name] * 8 for name in factors}
    rules = plan_by_rules(view, {}, "net")
    quantisable = [node.name for node in rules.nodes if node.quantisable]
    groups = group_candidates(view, quantisable)
    all_int8 = lower(view, only(rules, set(quantisable)), amax, Precision.FP32, factors)
    model = add_switches(view, all_int8, [group.nodes for group in groups])
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(1)
    choices = [np.zeros(len(groups), bool), np.ones(len(groups), bool), *(rng.random((4, len(groups))) < 0.5)]
    pictures = []
    for switches in choices:
        names = {name for on, group in zip(switches, groups, strict=True) if on for name in group.nodes}
        plan = only(rules, names)
        expected = lower(view, plan, amax, Precision.FP32, factors) if names else view.model
        pictures.append(run(model, {**inputs, SWITCHES: switches}))
        assert np.array_equal(pictures[-1], run(expected, inputs))
    assert not np.array_equal(pictures[0], pictures[1])


def test_the_model_itself_is_not_changed(view: GraphView) -> None:
    before = view.model.SerializeToString()
    amax = nets.ranges(view.model, feeds(SHAPES))
    plan = plan_by_rules(view, amax, "net")
    add_switches(view, lower(view, plan, amax, Precision.FP32), [[name] for name in plan.names(Precision.INT8)])
    assert view.model.SerializeToString() == before
