"""TensorRT-RTX: builds engines ahead of time, for a GPU that need not be in this machine."""

from __future__ import annotations

import time
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, RunOptions
from trt_facefusion.engine.backends.capabilities import Capabilities, Library
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.backends.session import LOG_TAIL, Session, import_library, open_session
from trt_facefusion.engine.backends.tensorrt_kernels import MATH_TYPES
from trt_facefusion.engine.backends.tensorrt_typed import build_typed
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.errors import BackendUnavailableError
from trt_facefusion.quantization.lowering import FusionRules
from trt_facefusion.types import Progress, silent

if TYPE_CHECKING:
    import tensorrt_rtx as trt

# SM75 is left out: its engines silently run INT8 convolutions in FP16.
TARGETS = ("sm80", "sm86", "sm89", "sm120", "sm121")
A10G = "sm86"


class TensorRtRtx:
    """The backend ``tensorrt-rtx``."""

    name = "tensorrt-rtx"
    suffix = "engine"
    library = Library("tensorrt_rtx", "TensorRT-RTX", ("tensorrt-rtx",), extra="rtx", cuda_wheels=True)
    capabilities = Capabilities(
        compiles_in_seconds=True,  # without timing kernels
        math_types=MATH_TYPES,
        fusion=FusionRules(shared_weight_scales=True, flat_norms=True),  # seen in its kernels: docs/fusion.md
    )
    caution = (
        "NVIDIA's support matrices for TensorRT-RTX name INT8 for weight-only matrix products, and no A10G: try such "
        "an engine on its GPU before you rely on it"
    )

    def version(self) -> str:
        """Version of the library. Raises BackendUnavailableError when it is not installed."""
        return str(_import_library().__version__)

    def targets(self) -> tuple[str, ...]:
        """Compute capabilities that engines can be built for."""
        return TARGETS

    def default_target(self) -> str:
        """NVIDIA A10G."""
        return A10G

    def recommend(self, target: str) -> str | None:
        """For every target that it builds for, installed or not."""
        return f"tensorrt-rtx builds for {target} without a GPU" if target in TARGETS else None

    def require(self, target: str) -> None:
        """Raise BackendUnavailableError unless it is installed and builds for ``target``."""
        if target not in TARGETS:
            raise BackendUnavailableError(
                f"tensorrt-rtx does not build INT8 engines for the target {target!r}.",
                f"Take one of {', '.join(TARGETS)} (an A10G is sm86), or --backend onnxruntime --target cpu.",
            )
        _import_library()

    def check(self, model: bytes) -> None:
        """Raise BuildError if TensorRT-RTX's parser refuses ``model``."""
        with open_session(_import_library(), "TensorRT-RTX", silent) as session:
            session.check(model)

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        """Build an engine for ``request.target``; needs no GPU.

        Ctrl-C cancels the build at its next step, and so does an exception of ``progress``; either is raised then.

        Raises:
            BackendUnavailableError: not installed, or not for this target.
            BuildError: the network was refused; the message names the node.
        """
        self.require(request.target)
        started = time.monotonic()
        with open_session(_import_library(), "TensorRT-RTX", progress) as session:
            serialised = build_typed(session, request, partial(_configure, session, request))
        facts = session.log.facts()
        return BuiltEngine(
            data=serialised,
            backend=self.name,
            backend_version=self.version(),
            target=request.target,
            kernels=facts.kernels,
            kernels_known=facts.kernels_known,
            engine_bytes=len(serialised),
            weights_bytes=facts.weights_bytes,
            activations_bytes=facts.activations_bytes,
            seconds=time.monotonic() - started,
            log_tail=session.log.tail(LOG_TAIL),
            pins=Pins.ahead_of_time(request.target),
        )

    def open(self, engine: bytes, options: RunOptions) -> Runner:
        """A runner on a GPU of this machine.

        Raises:
            BackendUnavailableError: no pycuda, no TensorRT-RTX, no driver or no GPU.
            BadInputError: there is no GPU of that number.
            DeviceError: TensorRT-RTX refused the engine.
        """
        from trt_facefusion.engine.runtime.pycuda import PycudaRunner

        return PycudaRunner(
            engine,
            slots=options.slots,
            device=options.device,
            library=self.library.module,
            host_code=options.host_code,
            extra=self.library.extra,
        )


def _configure(session: Session, request: BuildRequest, config: trt.IBuilderConfig) -> None:
    trt = session.api
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, request.target.upper()), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the log names kernels and types only with this
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)


def _import_library() -> ModuleType:
    return import_library("tensorrt_rtx", "tensorrt-rtx", "rtx")
