"""`trt-ff calibrate`: the calibration step of a build, by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.network_reader import read_network
from trt_facefusion.build.reporter import Note
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning.calibration_files import locate_table, require_writable_cache
from trt_facefusion.errors import BadInputError, CalibrationCacheError
from trt_facefusion.quantization.calibration.cache import Calibration, load_description
from trt_facefusion.quantization.calibration.threshold_choice import ThresholdChoice
from trt_facefusion.types import Progress, silent


@dataclass(frozen=True)
class CalibrationResult:
    """A table that was written, and what it came from; ``held_out`` faces were left to the verdict of builds."""

    path: Path
    calibration: Calibration
    choice: ThresholdChoice
    faces: int
    held_out: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        calibration = self.calibration
        return {
            "schema": 1,
            "path": str(self.path),
            "model": calibration.model,
            "model_digest": calibration.model_digest,
            "faces": self.faces,
            "held_out": self.held_out,
            "tensors": len(calibration.table),
            "seconds": round(self.seconds, 2),
            "choice": self.choice.as_dict(),
        }


def calibrate(settings: BuildSettings, progress: Progress = silent, note: Note | None = None) -> CalibrationResult:
    """Calibrate the model of ``settings`` and write its table: ``table_file``, or the one that builds look for.

    An interrupted run leaves the state of its pass beside the table, and the next one continues there.

    Raises:
        TrtFaceFusionError: bad input, an output that belongs to another model, or that cannot be written.
    """
    started = time.perf_counter()
    job = open_job(settings, progress, note)
    require_writable_cache(settings)
    network = read_network(settings, job.embedder, job.reporter)
    if settings.table_file is not None and not settings.force:
        _require_own(settings.table_file, network.view.digest)
    inputs = read_inputs(job, network, judged=False)
    calibration = Stages(inputs).choose_ranges().calibration
    assert calibration is not None and calibration.choice is not None
    return CalibrationResult(
        locate_table(inputs),
        calibration,
        calibration.choice,
        len(inputs.faces.calibration),
        len(inputs.faces.verification),
        time.perf_counter() - started,
    )


def _require_own(path: Path, digest: str) -> None:
    """Raise `BadInputError` if a file stands at ``path`` that is no earlier calibration of this model."""
    if not path.exists():
        return
    try:
        description = load_description(path)
    except CalibrationCacheError:
        description = None
    if description is None or description.model_digest != digest:
        raise BadInputError(
            f"{path} exists, and is no calibration of this model", "name another file with --output, or add --force"
        )
