"""`trt-ff build`: from a model and a folder of faces to stored engines that are proven to be right."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_facefusion.build.delivery import Delivery, EngineResult
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import Job, open_job
from trt_facefusion.build.namesakes import lock_model, tell_stale
from trt_facefusion.build.network import read_network
from trt_facefusion.build.report_data import RunRecord, read_search, record_build
from trt_facefusion.build.reporter import Note
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning.calibration_files import require_writable_cache
from trt_facefusion.build.verification import Verifier
from trt_facefusion.engine.store.store import Store
from trt_facefusion.model.messages import is_one_piece, serialise_model
from trt_facefusion.quantization.precision import read_rows
from trt_facefusion.types import Progress, silent


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

    def as_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        return {
            "schema": 1,
            "model": self.model,
            "seconds": round(self.seconds, 2),
            "cost": None if self.cost is None else dict(self.cost),
            "engines": [_engine_dict(engine) for engine in self.engines],
        }


def _engine_dict(result: EngineResult) -> dict[str, Any]:
    m = result.manifest
    keys = ("faces", "ssim", "ssim_drop", "ssim_drop_worst", "psnr_db", "perceptual", "identity_cosine")
    against = ("reference", "batch", "prepared")
    return {
        "precision": m.precision,
        "requested": result.requested.value,
        "backend": m.backend,
        "backend_version": m.backend_version,
        "target": m.target,
        "path": str(result.folder),
        "engine_bytes": m.engine_bytes,
        "weights_bytes": m.weights_bytes,
        "macs_share": dict(m.macs_share),
        "int8_kernels": {
            "planned": m.int8_kernels.planned,
            "real": m.int8_kernels.real,
            "missing": list(m.int8_kernels.missing),
        },
        "accuracy": {key: m.accuracy.get(key) for key in (*keys, *against)},
        "passed": m.gate.passed,
        "fallback": [{"from": f.from_, "to": f.to, "reason": f.reason} for f in result.fallback],
        "up_to_date": result.up_to_date,
    }


def build(settings: BuildSettings, progress: Progress = silent, note: Note | None = None) -> BuildResult:
    """Build every requested precision, falling back INT8 -> FP16 -> FP32 where the gate or the backend says no.

    Raises:
        TrtFaceFusionError: bad input, a backend that is missing, a store that cannot be written, or a chain that
            ended without any engine that is right.
    """
    started = time.perf_counter()
    job = open_job(settings, progress, note)  # fails before any work if the backend is missing
    with lock_model(job):
        delivery = Delivery(job, Store(settings.output))
        engines: list[EngineResult] = []
        work: Work | None = None
        for requested in dict.fromkeys(settings.precisions):
            engine = delivery.shelf.find_for(requested)
            if engine is None:
                work = work or start_work(job)
                engine = delivery.deliver(requested, work.stages, work.verifier)
            engines.append(engine)
        tell_stale(job, delivery.shelf.store)
        return _conclude(delivery, engines, work, time.perf_counter() - started)


@dataclass(frozen=True)
class Work:
    """What a build that is not up to date works with."""

    stages: Stages
    verifier: Verifier


def start_work(job: Job) -> Work:
    """Read and prove all that goes in; what can be told before the long part begins is told here.

    Raises:
        TrtFaceFusionError: bad input, a network that is not proven or that the backend refuses.
    """
    settings = job.settings
    require_writable_cache(settings)
    network = read_network(settings, job.embedder, job.reporter)
    if is_one_piece(network.prepared.model):  # else only smaller types can be built
        job.selection.backend.check(serialise_model(network.prepared.model))
    inputs = read_inputs(job, network)
    return Work(Stages(inputs), Verifier(inputs))


def _conclude(delivery: Delivery, engines: list[EngineResult], work: Work | None, seconds: float) -> BuildResult:
    name = delivery.job.settings.source.name
    if work is None or not delivery.shelf.built:  # every engine was up to date
        return BuildResult(name, seconds, tuple(engines))
    described = [
        {
            "requested": engine.requested.value,
            "up_to_date": engine.up_to_date,
            "folder": str(engine.folder),
            "manifest": json.loads(engine.manifest.to_json()),
            "plan": read_rows(engine.folder / "plan.yaml"),
            "search": read_search(engine.folder),
        }
        for engine in engines
    ]
    record = record_build(work.stages, work.verifier.gallery, described, seconds)
    return BuildResult(name, seconds, tuple(engines), record, work.stages.inputs.cost.as_dict())
