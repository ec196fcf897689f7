from __future__ import annotations

import numpy as np
import pytest
from nets import SWAPPER_SHAPES, Net, feeds, ranges, swapper

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.graph import GraphView, Role, prepare
from trt_facefusion.model.presets import PlanHint
from trt_facefusion.quantization.precision import Plan, plan_by_rules, quantisable
from trt_facefusion.quantization.precision.rules import require_roles
from trt_facefusion.types import Precision

SHAPES = {"x": (4, 8, 8), "s": (6,)}


def view_of(net: Net, y: str) -> GraphView:
    model = net.model({"x": ["N", 4, 8, 8], "s": ["N", 6]}, {y: ["N", "C", "H", "W"]})
    return GraphView(prepare(model, SHAPES).model)


def precisions(net: Net, y: str, amax: dict[str, float] | None = None) -> dict[str, Precision]:
    plan = plan_by_rules(view_of(net, y), amax or {}, "net")
    return {node.name: node.precision for node in plan.nodes}


@pytest.fixture(scope="module")
def plan() -> Plan:
    model = prepare(swapper(), SWAPPER_SHAPES).model
    return plan_by_rules(GraphView(model), ranges(model, feeds(SWAPPER_SHAPES)), "swapper")


def test_every_node_gets_a_reason(plan: Plan) -> None:
    assert plan.nodes
    assert all(node.reason for node in plan.nodes)


def test_a_swapper_is_planned_as_its_roles_ask(plan: Plan) -> None:
    by_role: dict[Role, set[Precision]] = {}
    for node in plan.nodes:
        by_role.setdefault(node.role, set()).add(node.precision)
    assert by_role[Role.CONV] == by_role[Role.STYLE_LINEAR] == {Precision.INT8}
    assert by_role[Role.STATISTICS] == by_role[Role.HEAD_ACTIVATION] == {Precision.FP32}
    for role in (Role.FIRST_CONV, Role.HEAD_CONV, Role.STYLE, Role.RESIDUAL_ADD, Role.RESIZE, Role.ACTIVATION):
        assert by_role[role] == {Precision.FP16}


def test_overflowing_ranges_stay_fp32_on_both_sides() -> None:
    net = Net()
    y = net.op("Relu", net.conv("x", 4, 4, name="a"), name="b")
    y = net.conv(net.op("Relu", net.conv(y, 4, 4, name="c"), name="d"), 4, 3, name="head")
    found = precisions(net, y, {"b": 20_000.0, "d": 16_000.0})
    assert found == {
        "a": Precision.FP16,
        "b": Precision.FP32,
        "c": Precision.FP32,
        "d": Precision.FP16,
        "head": Precision.FP16,
    }


@pytest.mark.parametrize(
    ("op", "value", "expected"),
    [
        ("Add", 1e-8, Precision.FP32),
        ("Max", 1e-12, Precision.FP32),
        ("Clip", 1e-12, Precision.FP32),
        ("Add", -1e-6, Precision.FP32),
        ("Add", 1e-3, Precision.FP16),
        ("Add", 0.0, Precision.FP16),
        ("Mul", 70_000.0, Precision.FP32),
    ],
)
def test_constants_that_fp16_cannot_hold_stay_fp32(op: str, value: float, expected: Precision) -> None:
    net = Net()
    y = net.op(op, net.conv("x", 4, 4), net.const(value), name="small")
    assert precisions(net, net.conv(y, 4, 3))["small"] is expected


def test_hints_keep_roles_and_headroom_in_fp32() -> None:
    net = Net()
    x = net.op("Relu", net.conv("x", 4, 8, name="first"), name="act")
    view = view_of(net, net.conv(net.op("Softmax", x, name="soft"), 8, 3, name="last"))
    near = {name: 6000.0 if name == "act" else 1.0 for name in ("x", "first", "act", "soft", "last")}

    def plan(*hints: PlanHint) -> dict[str, tuple[Precision, str]]:
        return {node.name: (node.precision, node.reason) for node in plan_by_rules(view, near, "m", hints=hints).nodes}

    assert plan()["act"][0] is Precision.FP16
    raised = plan(PlanHint("people saw it fail", ("activation",)))
    assert raised["act"] == (Precision.FP32, "activation: people saw it fail")
    precision, reason = plan(PlanHint("it overflows", fp16_headroom=16))["act"]
    assert precision is Precision.FP32 and "act reaches 6e+03" in reason


def test_a_hint_of_a_role_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadInputError, match="the role 'attention'"):
        require_roles((PlanHint("x", ("attention",)),))


def test_weights_that_fp16_cannot_hold_stay_fp32() -> None:
    net = Net()
    y = net.op("Conv", net.conv("x", 4, 4), net.const(np.full((4, 4, 1, 1), 7e4)), name="huge")
    assert precisions(net, net.conv(y, 4, 3))["huge"] is Precision.FP32


def test_only_layers_with_constant_weights_of_a_supported_form_are_quantisable() -> None:
    net = Net()
    convs = {"plain": 1, "grouped": 2, "depthwise": 4}
    x = net.conv("x", 4, 4, name="stem")
    for name, group in convs.items():
        x = net.conv(x, 4, 4, name=name, group=group)
    x = net.op("ConvTranspose", x, net.const(np.ones((4, 4, 2, 2))), name="transposed")
    linear = net.linear("s", 6, 6, name="linear")
    linear = net.op("Gemm", linear, net.const(np.ones((6, 4))), name="scaled", alpha=0.5)
    x = net.op("MatMul", x, x, name="product")
    view = view_of(net, net.op("Add", x, net.op("Reshape", linear, net.const([-1, 4, 1, 1], np.int64), name="y")))
    found = {name for name in view.nodes if quantisable(view, name)}
    assert found == {"stem", "plain", "grouped", "transposed", "linear"}


def test_a_layer_that_stays_float_says_why() -> None:
    net = Net()
    stem = net.conv("x", 4, 4, name="stem")
    scaled = net.op("Gemm", "s", net.const(np.ones((6, 4))), name="scaled", alpha=0.5)
    weight = net.op(
        "Add", net.const(np.ones((4, 4, 1, 1))), net.op("Reshape", scaled, net.const([-1, 4, 1, 1], np.int64))
    )
    x = net.op("Conv", net.conv(stem, 4, 4, name="depthwise", group=4), weight, name="computed")
    reasons = {node.name: node.reason for node in plan_by_rules(view_of(net, net.conv(x, 4, 3)), {}, "net").nodes}
    assert "depthwise" in reasons["depthwise"]
    assert "computed from what is fed" in reasons["computed"]
    assert "scaled" in reasons["scaled"]
