"""Measured layers of engines -> the factors of this GPU, for every later prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.timing.factors import AT_THE_ROOF, Factors, FittedFactors, load_factors, save_factors
from trt_facefusion.engine.timing.fit import MeasuredKernel, compute_deviation, fit, pair_measured
from trt_facefusion.engine.timing.gpus import GpuModel, find_gpu_of_device, get_gpu, list_gpus
from trt_facefusion.engine.timing.roofline import predict_engine
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.profiling.result import Profile


@dataclass(frozen=True)
class MeasuredEngine:
    """A stored engine and its profile, with the times of its layers."""

    manifest: Manifest
    profile: Profile


def choose_row(name: str | None, device: str) -> GpuModel:
    """The row of the table for the GPU that the driver calls ``device``, or the one called ``name``.

    Raises:
        BadInputError: there is none.
    """
    gpu = get_gpu(name) if name is not None else find_gpu_of_device(device)
    if gpu is None:
        raise BadInputError(
            f"nothing that is published of a {device} is known here, so nothing can be fitted to it",
            f"name the GPU that has its figures with --gpu: {', '.join(list_gpus())}; or add a row to gpus.yaml",
        )
    return gpu


def fit_factors(
    engines: Sequence[MeasuredEngine], gpu: GpuModel, device: str, cache: Path
) -> tuple[FittedFactors, Path]:
    """Fit the factors of ``gpu`` to all layers that were measured, and keep them in ``cache``.

    A type of arithmetic that these engines do not have keeps its earlier factor.

    Returns:
        What was fitted, and the file.

    Raises:
        BadInputError: too few layers were measured under the names of the engine's kernels.
        StoreError: earlier factors are damaged, or the file cannot be written.
    """
    earlier = load_factors(cache, gpu)
    before = AT_THE_ROOF if earlier is None else earlier.factors
    measured = [kernel for engine in engines for kernel in _pair(engine, gpu)]
    factors = _complete(fit(measured), before)
    deviation_before, total_before = compute_deviation(measured, before)
    deviation_after, total_after = compute_deviation(measured, factors)
    manifests = [engine.manifest for engine in engines]
    fitted = FittedFactors(
        gpu=gpu.name,
        device=device,
        library=", ".join(dict.fromkeys(f"{m.backend} {m.backend_version}" for m in manifests)),
        factors=factors,
        layers=len(measured),
        deviation_before=deviation_before,
        deviation_after=deviation_after,
        total_before=total_before,
        total_after=total_after,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return fitted, save_factors(cache, gpu, fitted)


def _pair(engine: MeasuredEngine, gpu: GpuModel) -> tuple[MeasuredKernel, ...]:
    at_the_roof = predict_engine(engine.manifest.kernels, gpu, engine.profile.batch)
    return pair_measured(at_the_roof, {layer.name: layer.time_ms for layer in engine.profile.layers})


def _complete(factors: Factors, earlier: Factors) -> Factors:
    return replace(factors, arithmetic={**earlier.arithmetic, **factors.arithmetic})
