"""What a build gives back: its engines, and what `--json` prints of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_facefusion.build.run_record import RunRecord
from trt_facefusion.build.speed import PredictedSpeed
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.evaluation.accuracy.registry import list_shown_figures


@dataclass(frozen=True)
class BuildResult:
    """All engines of one build, in the order of the request."""

    model: str
    seconds: float
    engines: tuple[EngineResult, ...]
    record: RunRecord | None = None
    """What the report shows; None where every engine was up to date."""
    cost: Mapping[str, Any] | None = None
    """What it was expected to cost, and how much it tried; None where every engine was up to date."""
    speed: PredictedSpeed | None = None
    """Predicted times of the engines; None where the model knows no such GPU, or no kernels."""

    def as_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        return {
            "schema": 1,
            "model": self.model,
            "seconds": round(self.seconds, 2),
            "cost": None if self.cost is None else dict(self.cost),
            "engines": [_describe_engine(engine) for engine in self.engines],
            "predicted": None if self.speed is None else self.speed.as_dict(),
        }


def _describe_engine(engine: EngineResult) -> dict[str, Any]:
    manifest = engine.manifest
    keys = ("faces", "ssim", *(figure.key for figure in list_shown_figures()))
    against = ("reference", "batch", "prepared")
    return {
        "precision": manifest.precision,
        "requested": engine.requested.value,
        "backend": manifest.backend,
        "backend_version": manifest.backend_version,
        "target": manifest.target,
        "path": str(engine.folder),
        "engine_bytes": manifest.engine_bytes,
        "weights_bytes": manifest.weights_bytes,
        "macs_share": dict(manifest.macs_share),
        "int8_kernels": {
            "planned": manifest.int8_kernels.planned,
            "real": manifest.int8_kernels.real,
            "missing": list(manifest.int8_kernels.missing),
        },
        "accuracy": {key: manifest.accuracy.get(key) for key in (*keys, *against, "judged_by")},
        "passed": manifest.gate.passed,
        "fallback": [{"from": f.from_, "to": f.to, "reason": f.reason} for f in engine.fallback],
        "up_to_date": engine.up_to_date,
    }
