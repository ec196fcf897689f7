"""The builder configuration that TensorRT 10 and 11 share: memory, verbosity, compatibility, timing cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trt_facefusion.engine.backends.base import HARDWARE_COMPATIBILITY, BuildRequest
from trt_facefusion.engine.backends.device import Device, limit_workspace
from trt_facefusion.engine.backends.session import Session
from trt_facefusion.errors import BadInputError
from trt_facefusion.storage.files import write_atomic

if TYPE_CHECKING:
    import tensorrt as trt

MAX_OPTIMIZATION_LEVEL = 5


def configure(session: Session, config: trt.IBuilderConfig, request: BuildRequest, device: Device | None) -> None:
    """Set everything that does not depend on the plan.

    Raises:
        BadInputError: an optimisation level or a hardware compatibility that does not exist.
    """
    trt = session.api
    options = request.options
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector names nodes and types only with this
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 means all its bits: it was verified with them
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit_workspace(request.workspace_bytes, device))
    if options.optimization_level is not None:
        if not 0 <= options.optimization_level <= MAX_OPTIMIZATION_LEVEL:
            raise BadInputError(
                f"the optimisation level {options.optimization_level} does not exist",
                f"use 0 (fast build) to {MAX_OPTIMIZATION_LEVEL} (long search)",
            )
        config.builder_optimization_level = options.optimization_level
    levels = {
        "none": trt.HardwareCompatibilityLevel.NONE,
        "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    }
    if options.hardware_compatibility not in levels:
        raise BadInputError(
            f"there is no hardware compatibility {options.hardware_compatibility!r}",
            f"use {', '.join(HARDWARE_COMPATIBILITY)}",
        )
    config.hardware_compatibility_level = levels[options.hardware_compatibility]
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


@dataclass(frozen=True)
class TimingCache:
    """Tactic timings of one GPU and one version in a file; ``path`` None keeps none."""

    path: Path | None

    @classmethod
    def of(cls, folder: Path | None, device: Device | None, version: str) -> TimingCache:
        """The cache for this GPU and version: timings of another one would choose the wrong tactics."""
        if folder is None or device is None:
            return cls(None)
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", device.name).strip("-").lower()
        return cls(folder / f"{gpu}-{device.target}-tensorrt-{version}.timing")

    def load(self, config: trt.IBuilderConfig) -> None:
        """Give ``config`` the timings so far; a file that TensorRT does not take counts as empty."""
        if self.path is None:
            return
        try:
            stored_timings = self.path.read_bytes()
        except OSError:
            stored_timings = b""
        cache = config.create_timing_cache(stored_timings)
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self, config: trt.IBuilderConfig) -> None:
        """Write the timings that the build added. Raises StoreError."""
        if self.path is None:
            return
        cache = config.get_timing_cache()
        if cache is not None:
            write_atomic(self.path, bytes(cache.serialize()), "--cache")


NO_TIMINGS = TimingCache(None)
