"""`trt-ff plan`: the plan of a build by itself, searched and verified."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_facefusion.build.engine import verify_plan
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.reporter import Note
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning.calibration_files import require_writable_cache
from trt_facefusion.build.verification import Verifier
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.registry import list_shown_figures
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision, Progress, silent


@dataclass(frozen=True)
class PlanResult:
    """A plan that passed on the verification faces; ``search`` is what `search.json` holds."""

    plan: Plan
    accuracy: Accuracy
    search: Mapping[str, Any] | None
    repairs: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        keys = ("faces", *(figure.key for figure in list_shown_figures()), "judged_by")
        accuracy = self.accuracy.as_dict()
        return {
            "schema": 1,
            "model": self.plan.model,
            "macs_share": self.plan.macs_share(),
            "nodes": {p.value: len(self.plan.names(p)) for p in Precision},
            "accuracy": {key: accuracy[key] for key in keys},
            "repairs": self.repairs,
            "seconds": round(self.seconds, 2),
            "search": self.search,
        }


def make_plan(settings: BuildSettings, progress: Progress = silent, note: Note | None = None) -> PlanResult:
    """The INT8 plan that ``build`` would use, verified as a whole and repaired.

    Raises:
        TrtFaceFusionError: bad input, or no plan keeps the budget (`GateError`).
    """
    started = time.perf_counter()
    job = open_job(settings, progress, note)
    require_writable_cache(settings)
    inputs = read_inputs(job)
    stages, verifier = Stages(inputs), Verifier(inputs)
    verified = verify_plan(stages, verifier, stages.make_plan(Precision.INT8), Precision.INT8)
    seconds = time.perf_counter() - started
    return PlanResult(verified.plan, verified.accuracy, stages.describe_search(), len(verified.repairs), seconds)
