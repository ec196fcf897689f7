"""What the plan search of a build makes least of: asked for by name, or chosen by what the backend can say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.backends.registry import BackendSelection
from trt_facefusion.engine.timing.factors import AT_THE_ROOF, Factors, load_factors
from trt_facefusion.engine.timing.gpus import GpuModel, choose_gpu
from trt_facefusion.errors import BadInputError, StoreError

AUTO, TIME, MACS, SIZE = "auto", "time", "macs", "size"
OBJECTIVES = (AUTO, TIME, MACS, SIZE)


@dataclass(frozen=True)
class Goal:
    """What a search makes least of.

    Attributes:
        name: `TIME`, `MACS` or `SIZE`.
        reason: why, as a person is told.
        gpu: for which GPU times are predicted; None where none are.
        factors: those that were fitted on it.
    """

    name: str
    reason: str
    gpu: GpuModel | None = None
    factors: Factors = AT_THE_ROOF


def choose_objective(settings: BuildSettings, selection: BackendSelection) -> Goal:
    """What was asked for, with ``auto`` decided: time where an engine takes seconds to compile, so that many can be.

    Raises:
        BadInputError: there is no such objective, or no times for this backend and target.
    """
    if settings.objective not in OBJECTIVES:
        raise BadInputError(
            f"there is no objective {settings.objective!r:.40}", f"use one of {', '.join(OBJECTIVES)} (--objective)"
        )
    if settings.objective in (MACS, SIZE):
        return Goal(settings.objective, "asked for")
    backend, gpu = selection.backend, None
    if backend.capabilities.needs_gpu:
        gpu = choose_gpu(settings.gpu, selection.target)
    missing = f"{backend.name} has no kernels whose times could be predicted for {selection.target}"
    if gpu is not None:
        missing = f"{backend.name} takes too long to compile many engines (--objective time does it all the same)"
    if settings.objective == TIME and gpu is None:
        raise BadInputError(
            f"--objective time: {missing}",
            "use --objective macs, or build for a GPU that `trt-ff estimate` knows (name one with --gpu)",
        )
    if gpu is None or (settings.objective == AUTO and not backend.capabilities.compiles_in_seconds):
        return Goal(MACS, missing)
    return Goal(TIME, f"predicted for {gpu.title}", gpu, _load_factors(settings.cache, gpu))


def _load_factors(folder: Path, gpu: GpuModel) -> Factors:
    try:
        fitted = load_factors(folder, gpu)
    except StoreError:  # told by whoever predicts the time of the engine
        fitted = None
    return AT_THE_ROOF if fitted is None else fitted.factors
