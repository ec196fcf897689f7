"""Opens a plan search: what it decides on, and the network that plans are measured in."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.objective import MACS
from trt_facefusion.build.tuning.plan_evaluator import PlanEvaluator
from trt_facefusion.build.tuning.plan_search import Excluded, PlanSearch
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.build.tuning.search_space import SearchSpace, group_layers, make_objective
from trt_facefusion.build.tuning.time_objective import TimeObjective
from trt_facefusion.build.tuning.timed_plans import TimedPlans
from trt_facefusion.evaluation.accuracy.gate import Limits
from trt_facefusion.evaluation.accuracy.registry import open_limited
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.switch import add_switches
from trt_facefusion.quantization.lowering.unsigned import quantise_unsigned
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision


def open_search(
    inputs: BuildInputs,
    ranges: Ranges,
    widest: Plan,
    corrections: Corrections,
    excluded: Excluded,
    *,
    protected: Collection[str],
    limit_named: bool,
    objective: str = MACS,
    times: TimedPlans | None = None,
) -> PlanSearch:
    """A search among plans that keep some INT8 nodes of ``widest``, whose ``corrections`` all of them have.

    Reads all weights, and runs nothing yet. ``limit_named`` says whether the SSIM limit is the user's; ``excluded``
    are layers that are no candidates, with reasons; ``protected`` those that rules keep from INT8; ``objective`` names
    what it makes least of, where it is not the time of ``times``.
    """
    space = group_layers(inputs, ranges, widest, protected, operands=times is None)
    limits = inputs.settings.choose_gate(Precision.INT8)
    evaluator = open_plan_evaluator(inputs, ranges, space, corrections, limits)
    least = make_objective(space, objective) if times is None else TimeObjective(times, space.groups)
    return PlanSearch(inputs, space, evaluator, limits, least, limit_named=limit_named, excluded=excluded, times=times)


def open_plan_evaluator(
    inputs: BuildInputs, ranges: Ranges, space: SearchSpace, corrections: Corrections, limits: Limits
) -> PlanEvaluator:
    """Measures plans of ``space`` on some calibration faces, by the metrics that ``limits`` are set for."""

    def make_model() -> onnx.ModelProto:
        amax, affines = ranges.amax, ranges.affines
        lowered = lower(ranges.view, space.widest, amax, Precision.FP32, affines, corrections, pairs=inputs.pairs)
        if inputs.capabilities.pads_with_zero_points:
            lowered = quantise_unsigned(lowered)
        return add_switches(ranges.view, lowered, [group.nodes for group in space.groups])

    faces = inputs.faces.calibration
    metrics = open_limited(limits.named, inputs.tools)
    indices = spread(len(faces), space.effort.faces)
    return PlanEvaluator(make_model, len(space.groups), inputs.network.make_renderer(faces), indices, metrics)
