"""What a build says of speed: predicted from the kernels of its engines, for a GPU that need not be here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trt_facefusion.build.job import Job
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.stored_engines import EngineResult, StoredEngines
from trt_facefusion.build.time_model import predict_time
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.timing.gpus import GpuModel, get_gpu
from trt_facefusion.engine.timing.summary import PredictedTime, explain_int8
from trt_facefusion.errors import BuildError
from trt_facefusion.types import Precision


@dataclass(frozen=True)
class PredictedSpeed:
    """Predicted times of a build's engines on one GPU, by precision.

    ``times`` also holds FP16 where INT8 was built and FP16 only compiled, or stored before, to compare with.
    """

    gpu: GpuModel
    times: Mapping[Precision, PredictedTime]

    @property
    def verdict(self) -> str | None:
        """Why INT8 does not pay on this GPU, and what to build; None where it pays, or nothing is there to compare."""
        return explain_int8(self.times, self.gpu.title)

    def as_dict(self) -> dict[str, Any]:
        """The times as ``--json`` and the report's record hold them."""
        return {
            "what": "predicted by a model, not measured",
            "gpu": self.gpu.name,
            "title": self.gpu.title,
            "times": {precision.value: asdict(time) for precision, time in self.times.items()},
            "int8_does_not_pay": self.verdict,
        }


def gather_speed(
    job: Job, stored: StoredEngines, results: Sequence[EngineResult], stages: Stages | None
) -> PredictedSpeed | None:
    """The predicted times of a build; where FP16 was not asked for beside INT8, of an FP16 engine to compare with.

    Args:
        job: the build.
        stored: what the store has of it.
        results: its engines.
        stages: what it was made by; None where all was up to date.
    """
    manifests = {Precision(result.manifest.precision): result.manifest for result in results}
    if Precision.INT8 in manifests and Precision.FP16 not in manifests:
        sibling = stored.find(Precision.FP16)
        manifests |= {} if sibling is None else {Precision.FP16: sibling[1]}
    times = {precision: _predict_stored(job, manifest) for precision, manifest in manifests.items()}
    if times.get(Precision.INT8) is not None and Precision.FP16 not in times and stages is not None:
        times[Precision.FP16] = _predict_fp16(stages)
    predicted = {precision: time for precision in Precision if (time := times.get(precision)) is not None}
    gpus = {time.gpu for time in predicted.values()}
    return PredictedSpeed(get_gpu(gpus.pop()), predicted) if len(gpus) == 1 else None


def _predict_stored(job: Job, manifest: Manifest) -> PredictedTime | None:
    return predict_time(job, manifest.kernels, manifest.pins.device)


def _predict_fp16(stages: Stages) -> PredictedTime | None:
    """FP16, compiled for its kernels only, where that takes seconds."""
    job = stages.inputs.job
    if not job.selection.backend.capabilities.compiles_in_seconds:
        return None
    try:
        compiled = stages.compile_kernels(stages.lower(stages.make_plan(Precision.FP16)))
    except BuildError:  # then there is nothing to compare with
        return None
    return predict_time(job, compiled.engine.kernels, compiled.engine.pins.device)
