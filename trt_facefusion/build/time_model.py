"""The model of time as a build uses it: for which GPU, and with which factors."""

from __future__ import annotations

from collections.abc import Sequence

from trt_facefusion.build.job import Job
from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.engine.timing.factors import AT_THE_ROOF, FittedFactors, load_factors
from trt_facefusion.engine.timing.gpus import GpuModel, choose_gpu
from trt_facefusion.engine.timing.roofline import predict_engine
from trt_facefusion.engine.timing.summary import PredictedTime, summarise
from trt_facefusion.errors import StoreError


def choose_job_gpu(job: Job, device: str | None = None) -> GpuModel | None:
    """The GPU that times are predicted for: the one that the user named, the ``device`` of an engine, or the target's.

    None for a processor, and where the table has no such GPU.
    """
    if not job.selection.backend.capabilities.needs_gpu:
        return None
    return choose_gpu(job.settings.gpu, job.selection.target, device)


def load_job_factors(job: Job, gpu: GpuModel) -> FittedFactors | None:
    """The factors that were fitted on ``gpu``; None where there are none, or none that can be read."""
    try:
        return load_factors(job.settings.cache, gpu)
    except StoreError as error:  # no reason to give up an engine
        job.reporter.warn(f"times are predicted without fitted factors: {error.message} {error.remedy}")
        return None


def predict_time(job: Job, kernels: Sequence[Kernel], device: str | None) -> PredictedTime | None:
    """The predicted time of one inference of the usual batch.

    Args:
        job: the build: its GPU, its target and its factors are reckoned with.
        kernels: those of the engine.
        device: the GPU that the engine was built on; None where it was built ahead of time.

    Returns:
        None for a processor, for a GPU that the table lacks, and where no kernels are known.
    """
    gpu = choose_job_gpu(job, device)
    if gpu is None or not kernels:
        return None
    fitted = load_job_factors(job, gpu)
    factors = AT_THE_ROOF if fitted is None else fitted.factors
    return summarise(predict_engine(kernels, gpu, job.settings.batch.opt, factors), fitted=fitted is not None)
