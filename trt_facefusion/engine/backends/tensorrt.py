"""TensorRT 10 and 11: builds for the GPU of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, RunOptions
from trt_facefusion.engine.backends.capabilities import Capabilities, Library, Typing
from trt_facefusion.engine.backends.device import Device, ask_device
from trt_facefusion.engine.backends.inspector import InspectedEngine, inspect
from trt_facefusion.engine.backends.kernels import find_lowered_nodes
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.backends.session import LOG_TAIL, import_library, open_session
from trt_facefusion.engine.backends.tensorrt_config import TimingCache, configure
from trt_facefusion.engine.backends.tensorrt_kernels import MATH_TYPES
from trt_facefusion.engine.backends.tensorrt_typed import build_typed
from trt_facefusion.engine.backends.tensorrt_weak import WeakBuild, build_weak
from trt_facefusion.engine.backends.uploader import PycudaUploader, Uploader
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.errors import BackendUnavailableError, pip_install
from trt_facefusion.types import Progress, silent

MAJORS = (10, 11)
WEAKLY_TYPED = 10
"""The major version that chooses types itself, and calibrates."""
_SHOWN = 5


class TensorRt:
    """The backend ``tensorrt``: weakly typed with version 10, strongly typed with version 11.

    ``device`` and ``make_uploader`` are how it finds the GPU and reaches its memory.
    """

    name = "tensorrt"
    suffix = "engine"
    library = Library("tensorrt", "TensorRT", ("tensorrt",), extra="gpu", cuda_wheels=True)
    capabilities = Capabilities(
        triton_platform="tensorrt_plan",
        typing=Typing.WEAK,
        needs_device=True,
        calibrating_majors=(WEAKLY_TYPED,),
        unfolded_majors=(WEAKLY_TYPED,),
        math_types=MATH_TYPES,
    )
    caution = ""

    def __init__(
        self,
        device: Callable[[], Device | None] = ask_device,
        make_uploader: Callable[[], Uploader] = PycudaUploader,
    ) -> None:
        self._device = device
        self._make_uploader = make_uploader

    def version(self) -> str:
        """Version of the library. Raises BackendUnavailableError when it is not installed, or is too old or too new."""
        version = str(_import_library().__version__)
        if _parse_major(version) not in MAJORS:
            raise BackendUnavailableError(
                f"TensorRT {version} is installed; this version builds with TensorRT 10 and 11.",
                f"Install one of those: {pip_install('gpu')}",
            )
        return version

    def targets(self) -> tuple[str, ...]:
        """The GPU of this machine; nothing where it is not known."""
        device = self._device()
        return () if device is None else (device.target,)

    def default_target(self) -> str | None:
        """The GPU of this machine, where it is known and the library is installed."""
        try:
            self.version()
        except BackendUnavailableError:
            return None
        return next(iter(self.targets()), None)

    def recommend(self, target: str) -> str | None:
        """For the GPU of this machine."""
        if target == "cpu" or target != self.default_target():  # the GPU is not asked for nothing
            return None
        return "TensorRT is installed, and the target is this machine's GPU"

    def require(self, target: str) -> None:
        """Raise BackendUnavailableError unless it is installed and ``target`` is this machine's GPU.

        Where pycuda is missing the GPU cannot be asked for; TensorRT itself then says whether there is one.
        """
        self.version()
        here = self.targets()
        if target == "cpu" or (here and target not in here):
            raise BackendUnavailableError(
                f"TensorRT builds for the GPU of this machine ({', '.join(here) or 'unknown'}), not for {target}.",
                "Build on a machine with that GPU, or take --backend tensorrt-rtx, which needs none.",
            )

    def check(self, model: bytes) -> None:
        """Raise BuildError if TensorRT's parser refuses ``model``."""
        with open_session(_import_library(), f"TensorRT {self.version()}", silent) as session:
            session.check(model)

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        """Build an engine for the GPU of this machine.

        TensorRT 10 takes ``request.weak`` where it is given, and else the typed ONNX like version 11. Ctrl-C cancels
        the build at its next step, and so does an exception of ``progress``; either is raised then.

        Raises:
            BackendUnavailableError: not installed, or not for this target.
            BuildError: the network was refused; the message holds TensorRT's own.
        """
        self.require(request.target)
        version = self.version()
        device = self._device()
        weak = request.weak if _parse_major(version) == WEAKLY_TYPED else None
        weak_build: WeakBuild | None = None
        started = time.monotonic()
        with open_session(_import_library(), f"TensorRT {version}", progress) as session:
            if weak is not None:
                weak_build = build_weak(session, request, weak, device, self._make_uploader)
                serialised = weak_build.data
            else:
                timings = TimingCache.of(request.options.timing_cache, device, version)
                serialised = build_typed(
                    session, request, lambda config: configure(session, config, request, device), timings
                )
            facts = inspect(session, serialised, version_compatible=request.options.version_compatible)
        return BuiltEngine(
            data=serialised,
            backend=self.name,
            backend_version=version,
            target=request.target,
            kernels=facts.kernels,
            kernels_known=facts.kernels_known,
            engine_bytes=len(serialised),
            weights_bytes=facts.weights_bytes,
            activations_bytes=facts.activations_bytes,
            seconds=time.monotonic() - started,
            log_tail=(*_describe_mapping(weak_build), *session.log.tail(LOG_TAIL)),
            notes=_write_notes(request, facts, weak_build),
            constraints=weak_build.constraints if weak_build is not None else None,
            scales=weak_build.scales if weak_build is not None else None,
            calibration=weak_build.calibration if weak_build is not None else None,
            pins=Pins.of_this_machine(
                device, request.options.hardware_compatibility, request.options.version_compatible
            ),
        )

    def open(self, engine: bytes, options: RunOptions) -> Runner:
        """A runner on a GPU of this machine.

        Raises:
            BackendUnavailableError: no pycuda, no TensorRT, no driver or no GPU.
            BadInputError: there is no GPU of that number.
            DeviceError: TensorRT refused the engine.
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


def _write_notes(request: BuildRequest, facts: InspectedEngine, weak_build: WeakBuild | None) -> tuple[str, ...]:
    """What a person should know of this engine."""
    notes = []
    if weak_build is not None:
        report, scales = weak_build.constraints, weak_build.scales
        if report.without_layer:
            notes.append(
                f"{_shorten(report.without_layer)} became no layer of their own, so nothing was held to the plan"
            )
        if scales is not None and scales.missing:
            notes.append(f"no calibrated range for {_shorten(scales.missing)}: layers around them cannot run in INT8")
    if request.weak is not None:
        lost = find_lowered_nodes(request.weak.precisions, facts.kernels, typed=weak_build is None)
        if lost:
            shown = "; ".join(f"{node} ({why})" for node, why in list(lost.items())[:_SHOWN])
            notes.append(f"{len(lost)} nodes did not keep their precision: {shown}")
    return tuple(notes)


def _describe_mapping(weak_build: WeakBuild | None) -> tuple[str, ...]:
    """How nodes and layers belong together where that is not one to one, as lines of the build's log."""
    if weak_build is None:
        return ()
    report = weak_build.constraints
    lines = [
        f"node {node} became {len(report.layers[node])} layers: {', '.join(report.layers[node])}"
        for node in report.several
    ]
    lines += [f"node {node} became no layer" for node in report.without_layer]
    lines += [f"layer {layer} was made from no node" for layer in report.without_node]
    head = f"{report.constrained} layers are held to the plan, {len(report.free)} nodes may run in INT8"
    return tuple(f"[PLAN] {line}" for line in (head, *lines))


def _shorten(names: tuple[str, ...]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _parse_major(version: str) -> int:
    return int(version.partition(".")[0])


def _import_library() -> ModuleType:
    return import_library("tensorrt", "TensorRT", "gpu")
