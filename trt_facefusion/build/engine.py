"""One precision of a build, from its plan to an engine that is proven."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_facefusion.build.compilation import CompiledEngine, report_kernels
from trt_facefusion.build.job import require_precision
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.verification import NO_GAIN, WIDEN, Repair, VerifiedPlan, Verifier
from trt_facefusion.build.weak_typing import describe_own_table
from trt_facefusion.errors import GateError
from trt_facefusion.evaluation.accuracy.gate import Limits
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine that passed, with everything that its manifest says of it.

    ``calibration`` and ``table_sha256`` say what its scales are made of, where it has INT8. ``recalibration`` is
    TensorRT's own table against ours, None where it made none; ``search`` what the plan search measured, for
    `search.json`, None where none was made.
    """

    precision: Precision
    verified: VerifiedPlan
    compiled: CompiledEngine
    gate: Limits
    seconds: float
    calibration: Mapping[str, object] = field(default_factory=dict)
    table_sha256: str | None = None
    recalibration: Mapping[str, object] | None = None
    search: Mapping[str, Any] | None = None


def build_precision(stages: Stages, verifier: Verifier, precision: Precision) -> VerifiedEngine:
    """An engine of ``precision`` that passed its gate.

    Raises:
        GateError: the pictures are not right, also after the repairs that are allowed.
        BuildError: the backend refused it, or ``strict`` is on and a planned INT8 kernel is missing.
    """
    started = time.perf_counter()
    inputs = stages.inputs
    require_precision(inputs.job.selection, precision)
    plan = stages.make_plan(precision)
    verified = verify_plan(stages, verifier, plan, precision)
    compiled = verifier.compile(verified.lowered)
    raises = inputs.job.selection.backend.capabilities.raises_missing
    if stages.searches and raises and compiled.missing:
        engine = compiled.engine
        raised = dict.fromkeys(compiled.missing, f"{engine.backend} built no INT8 kernel for it")
        inputs.reporter.note(f"raising {', '.join(raised)}: planned INT8 bought no INT8 kernel")
        verified = verify_plan(stages, verifier, verified.plan.raised(raised), precision, verified.repairs)
        compiled = verifier.compile(verified.lowered)
    report_kernels(inputs, compiled)
    own_table = compiled.engine.calibration
    return VerifiedEngine(
        precision,
        verified,
        compiled,
        verifier.choose_gate(precision),
        time.perf_counter() - started,
        recalibration=None if own_table is None else describe_own_table(inputs, stages.choose_ranges(), own_table),
        search=stages.describe_search() if precision is Precision.INT8 else None,
        **_describe_scales(stages, verified.plan),
    )


def verify_plan(
    stages: Stages, verifier: Verifier, plan: Plan, precision: Precision, repairs: tuple[Repair, ...] = ()
) -> VerifiedPlan:
    """Lower, verify and, where INT8 fails, repair ``plan``, which was repaired by ``repairs`` before.

    Raises:
        GateError: no plan was right, or nothing is left in INT8.
    """
    if precision is Precision.INT8 and not plan.names(Precision.INT8):
        if stages.searches:
            search = stages.open_search()
            raise GateError(f"int8: {search.explain_shortfall()}", WIDEN if search.pays else NO_GAIN)
        raise GateError("int8: the plan has no node in int8", "give nodes int8 in the plan (--plan)")

    def find_stricter(accuracy: Accuracy, failed: Plan) -> Plan | None:
        return stages.open_search_for_repair(failed).find_stricter(accuracy, failed)

    return verifier.verify_with_repair(plan, precision, stages.lower, find_stricter, repairs)


def _describe_scales(stages: Stages, plan: Plan) -> dict[str, Any]:
    """What the scales of an engine with INT8 are made of."""
    if not plan.names(Precision.INT8):
        return {}
    ranges = stages.choose_ranges()
    record = {**ranges.record, **stages.open_corrector().describe(), **stages.open_integer_storage().describe()}
    record |= stages.open_zero_points().describe()
    if stages.inputs.stores_all:
        record |= stages.open_npu_storage().describe()
    return {"calibration": record, "table_sha256": ranges.table_sha256}
