"""`trt-ff build`: from a model and a folder of faces to stored engines that are proven to be right."""

from __future__ import annotations

import time
from dataclasses import dataclass

from trt_facefusion.build.delivery import Delivery
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import Job, open_job
from trt_facefusion.build.namesakes import lock_model, tell_stale
from trt_facefusion.build.network_reader import read_network
from trt_facefusion.build.report_data import record_build
from trt_facefusion.build.reporter import Note
from trt_facefusion.build.result import BuildResult
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.speed import gather_speed
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.build.tuning.calibration_files import require_writable_cache
from trt_facefusion.build.verification import Verifier
from trt_facefusion.model.messages import is_one_piece, serialise_model
from trt_facefusion.types import Progress, silent


def build(settings: BuildSettings, progress: Progress = silent, note: Note | None = None) -> BuildResult:
    """Build every requested precision, falling back INT8 -> FP16 -> FP32 where the gate or the backend says no.

    Raises:
        TrtFaceFusionError: bad input, a backend that is missing, a store that cannot be written, or a chain that
            ended without any engine that is right.
    """
    started = time.perf_counter()
    job = open_job(settings, progress, note)  # fails before any work if the backend is missing
    with lock_model(job):
        delivery = Delivery(job)
        engines: list[EngineResult] = []
        opened: OpenedBuild | None = None
        for requested in dict.fromkeys(settings.precisions):
            engine = delivery.engines.find_for(requested)
            if engine is None:
                opened = opened or open_build(job)
                engine = delivery.deliver(requested, opened.stages, opened.verifier)
            engines.append(engine)
        tell_stale(job, delivery.engines.store)
        return _conclude(delivery, engines, opened, time.perf_counter() - started)


@dataclass(frozen=True)
class OpenedBuild:
    """A build that is not up to date, with its inputs read and proven."""

    stages: Stages
    verifier: Verifier


def open_build(job: Job) -> OpenedBuild:
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
    return OpenedBuild(Stages(inputs), Verifier(inputs))


def _conclude(
    delivery: Delivery, engines: list[EngineResult], opened: OpenedBuild | None, seconds: float
) -> BuildResult:
    job, stored = delivery.job, delivery.engines
    name = job.settings.source.name
    speed = gather_speed(job, stored, engines, None if opened is None else opened.stages)
    if opened is None or not stored.built:  # every engine was up to date
        return BuildResult(name, seconds, tuple(engines), speed=speed)
    record = record_build(opened.stages, opened.verifier.gallery, engines, seconds, speed)
    return BuildResult(name, seconds, tuple(engines), record, opened.stages.inputs.cost.as_dict(), speed)
