"""The plan by rules: each rule looks at one node and gives its precision and the reason, or passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.graph import GraphView, Role, holds_half, makes_indices, read_attribute
from trt_facefusion.model.presets.hints import PlanHint
from trt_facefusion.quantization.precision.facts import TRANSPOSED, no_kernel
from trt_facefusion.quantization.precision.plan import Plan, PlannedNode, describe
from trt_facefusion.quantization.precision.ranges import (
    FP16_MAX,
    FP16_TINY,
    RANGE_MARGIN,
    TensorMoments,
    find_hidden_peak,
)
from trt_facefusion.types import Precision

SMALL_WEIGHT = 1e-3
"""A layer whose largest weight is below this keeps its digits in FP32 only: its INT8 scale would be below 2**-17."""

Decision = tuple[Precision, str]


@dataclass(frozen=True)
class Context:
    """What rules may look at: the graph and, after calibration, the largest magnitude of each tensor and its means.

    ``hints`` are what is known of a generator of this kind.
    """

    view: GraphView
    amax: Mapping[str, float]
    moments: Mapping[str, TensorMoments] = field(default_factory=dict)
    hints: tuple[PlanHint, ...] = ()

    @property
    def margin(self) -> float:
        """How far from FP16's limit values have to stay on the calibration faces."""
        return max(RANGE_MARGIN, *(hint.fp16_headroom or 0.0 for hint in self.hints), 0.0)


Rule = Callable[[Context, PlannedNode], Decision | None]


def operator_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where ONNX defines the operator in no other floats."""
    if not holds_half(context.view, context.view.nodes[node.name]):
        return Precision.FP32, f"{node.op} takes no FP16 here"
    return None


def index_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where floats become integers, which are indices more often than not."""
    if makes_indices(context.view, context.view.nodes[node.name]):
        return Precision.FP32, "rounds to integers: FP16 knows no odd numbers above 2048"
    return None


def mask_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where the minus infinity of a mask runs through."""
    proto = context.view.nodes[node.name]
    if not context.view.masked.isdisjoint((*proto.input, *proto.output)):
        return Precision.FP32, "a mask of -inf or the lowest float runs through it, which FP16 cannot tell apart"
    return None


def range_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where calibration saw magnitudes that FP16 might not hold."""
    proto = context.view.nodes[node.name]
    amax_of = {name: context.amax.get(name, 0.0) for name in (*proto.input, *proto.output)}
    name = max(amax_of, key=lambda key: amax_of[key], default="")
    if name and amax_of[name] * context.margin > FP16_MAX:
        return Precision.FP32, f"{name} reaches {amax_of[name]:.3g} on faces; FP16 ends at 65504"
    return None


def sum_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where a sum inside of the node might not fit into FP16, which no tensor of the graph shows."""
    peak = find_hidden_peak(context.view, context.view.nodes[node.name], context.moments)
    if peak is not None and peak[0] * context.margin > FP16_MAX:
        return Precision.FP32, f"{peak[1]} reaches {peak[0]:.3g} on faces; FP16 ends at 65504"
    return None


def tiny_value_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where what a node gives, or the variance that it divides by, is too small for FP16's normal numbers."""
    proto = context.view.nodes[node.name]
    for name in proto.output:
        values = context.moments.get(name)
        if values is not None and 0 < math.sqrt(values.square) < FP16_TINY:
            size = math.sqrt(values.square)
            return Precision.FP32, f"{name} is about {size:.3g} on faces: FP16 loses digits below 6.1e-5"
    values = context.moments.get(proto.input[0]) if proto.input else None
    if node.role is Role.NORMALISATION and values is not None and 0 < values.square < FP16_TINY:
        return Precision.FP32, f"its variance is at most {values.square:.3g} on faces: FP16 loses digits below 6.1e-5"
    return None


def tiny_epsilon_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where a normalisation's epsilon is none of FP16's normal numbers: a flat channel then divides by noise."""
    epsilon = read_attribute(context.view.nodes[node.name], "epsilon")
    if isinstance(epsilon, float) and 0 < epsilon < FP16_TINY:
        return Precision.FP32, f"its epsilon {epsilon:.3g} loses its digits in FP16, or vanishes"
    return None


def tiny_constant_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where a scalar constant would vanish in FP16 (1e-8 becomes 0, and 0/0 follows)."""
    if node.op not in {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Clip"}:
        return None
    for name in context.view.nodes[node.name].input:
        if name and context.view.is_constant(name) and context.view.is_float(name):
            constant = context.view.constant(name)
            if constant.size == 1 and 0 < abs(float(constant.reshape(-1)[0])) < FP16_TINY:
                return Precision.FP32, f"the constant {float(constant.reshape(-1)[0]):.3g} vanishes in FP16"
    return None


def large_weight_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where a weight does not fit into FP16."""
    for name in context.view.nodes[node.name].input:
        if name and context.view.is_constant(name) and context.view.is_float(name):
            peak = float(np.abs(context.view.constant(name)).max(initial=0.0))
            if peak > FP16_MAX:
                return Precision.FP32, f"the constant {name} holds {peak:.3g}; FP16 ends at 65504"
    return None


def small_weight_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where all of a layer's weights are so small that FP16 (and an FP16 scale) would lose their digits."""
    weight = context.view.weight(context.view.nodes[node.name])
    if weight is None:
        return None
    peak = float(np.abs(context.view.constant(weight)).max(initial=0.0))
    if 0 < peak < SMALL_WEIGHT:
        return Precision.FP32, f"the largest weight is {peak:.3g}: too small for FP16 and for an FP16 scale"
    return None


_BY_ROLE: dict[Role, Decision] = {
    Role.STATISTICS: (Precision.FP32, "normalisation statistics: sums of squares overflow and 1e-8 vanishes in FP16"),
    Role.NORMALISATION: (Precision.FP32, "normalisation: its statistics are FP32"),
    Role.SOFTMAX: (Precision.FP32, "softmax: exponentials and their sum"),
    Role.HEAD_CONV: (Precision.FP16, "output head: its rounding is seen directly, and it holds few MACs"),
    Role.HEAD_ACTIVATION: (Precision.FP32, "output activation: keeps the picture's full resolution"),
    Role.FIRST_CONV: (Precision.FP16, "first convolution: few input channels, so INT8 gains little and costs detail"),
    Role.ATTENTION_LOGITS: (Precision.FP16, "attention query/key: the softmax amplifies their error"),
    Role.ATTENTION_PRODUCT: (Precision.FP16, "attention product: two activations, no constant weights"),
    Role.CONV_TRANSPOSE: (Precision.FP16, TRANSPOSED.reason),
    Role.RESIDUAL_ADD: (Precision.FP16, "residual add: errors of all blocks gather here"),
    Role.STYLE: (Precision.FP16, "style scale and shift: multiplies whole channels"),
    Role.CONCAT: (Precision.FP16, "concatenation: copies, in the precision of its consumers"),
    Role.RESIZE: (Precision.FP16, "resize: interpolates; the quantiser sits behind it"),
}


def hint_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP32 where people saw generators of this kind fail in FP16."""
    for hint in context.hints:
        if node.role.value in hint.roles:
            return Precision.FP32, f"{node.role.value}: {hint.because}"
    return None


def require_roles(hints: tuple[PlanHint, ...]) -> None:
    """Raise `BadInputError` for a hint that names a role which there is not."""
    names = [role.value for role in Role]
    for hint in hints:
        for name in hint.roles:
            if name not in names:
                raise BadInputError(
                    f"a hint of the preset names the role {name!r}, which there is not", f"use {', '.join(names)}"
                )


def role_rule(_: Context, node: PlannedNode) -> Decision | None:
    """What the node's role asks for."""
    return _BY_ROLE.get(node.role)


def int8_rule(context: Context, node: PlannedNode) -> Decision | None:
    """INT8 for every convolution and linear layer that no earlier rule protected and whose input has a range."""
    if not node.quantisable:
        return None
    activation = context.view.nodes[node.name].input[0]
    if context.amax and activation not in context.amax:
        return Precision.FP16, f"the calibration has no range for {activation}"
    if node.role is Role.STYLE_LINEAR:
        return (
            Precision.INT8,
            "style linear: per-channel weights; acts on one vector, so a quarter of the bytes for free",
        )
    return Precision.INT8, f"{node.role.value} with constant weights"


def product_rule(context: Context, node: PlannedNode) -> Decision | None:
    """FP16, and why, for layers with work to do that INT8 could not be asked for."""
    proto = context.view.nodes[node.name]
    if not node.macs or node.quantisable:
        return None
    fact = no_kernel(context.view, node.name)
    if fact is not None:
        return Precision.FP16, fact.reason
    if context.view.weight(proto) is None:
        return Precision.FP16, f"{node.role.value}: its weights are computed from what is fed, and INT8 needs constants"
    return Precision.FP16, f"{node.role.value}: scaled, transposed or of more axes than INT8's matrix products have"


def default_rule(_: Context, node: PlannedNode) -> Decision | None:
    """FP16 for the rest."""
    return Precision.FP16, f"{node.role.value}: no matrix product, FP16 halves its traffic"


RULES: tuple[Rule, ...] = (
    operator_rule,
    index_rule,
    mask_rule,
    range_rule,
    sum_rule,
    tiny_value_rule,
    tiny_constant_rule,
    tiny_epsilon_rule,
    large_weight_rule,
    small_weight_rule,
    hint_rule,
    role_rule,
    int8_rule,
    product_rule,
    default_rule,
)


def plan_by_rules(
    view: GraphView,
    amax: Mapping[str, float],
    model: str,
    moments: Mapping[str, TensorMoments] | None = None,
    hints: tuple[PlanHint, ...] = (),
) -> Plan:
    """The INT8 plan; `Plan.capped` turns it into the FP16 or FP32 plan with the same protections.

    ``amax`` maps tensors to their largest calibrated magnitude; without it nothing is known about overflow. ``moments``
    says more of them, where there are histograms; ``hints`` what is known of a generator of this kind.
    """
    context = Context(view, amax, moments or {}, hints)
    nodes = []
    for node in describe(view):
        decision = next(d for rule in RULES if (d := rule(context, node)) is not None)
        nodes.append(replace(node, precision=decision[0], reason=decision[1]))
    return Plan(model, view.digest, tuple(nodes))
