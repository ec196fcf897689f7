"""TensorRT-RTX: builds engines ahead of time, for a GPU that need not be in this machine."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from trt_facefusion.backends.base import BuildRequest, BuiltEngine, ShapeRange
from trt_facefusion.backends.checks import checked
from trt_facefusion.backends.interrupts import Interrupt, deferred_interrupts
from trt_facefusion.backends.rtx_log import LogBuffer, without_noise
from trt_facefusion.errors import BackendUnavailableError, BuildError
from trt_facefusion.types import Progress, silent

# SM75 is left out: its engines silently run INT8 convolutions in FP16.
TARGETS = ("sm80", "sm86", "sm89", "sm120", "sm121")
_OTHER_MAKER = "Replace it before the export, or build with --backend onnxruntime."
_LOG_TAIL = 200


class TensorRtRtx:
    """The engine maker ``tensorrt-rtx``."""

    name = "tensorrt-rtx"
    suffix = "engine"

    def version(self) -> str:
        """Version of the library. Raises BackendUnavailableError when it is not installed."""
        return str(_library().__version__)

    def targets(self) -> tuple[str, ...]:
        """Compute capabilities that engines can be built for."""
        return TARGETS

    def require(self, target: str) -> None:
        """Raise BackendUnavailableError unless it is installed and builds for ``target``."""
        if target not in TARGETS:
            raise BackendUnavailableError(
                f"tensorrt-rtx does not build INT8 engines for the target {target!r}.",
                f"Take one of {', '.join(TARGETS)} (an A10G is sm86), or --backend onnxruntime --target cpu.",
            )
        _library()

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        """Build an engine for ``request.target``; needs no GPU.

        Ctrl-C cancels the build at its next step, and so does an exception of ``progress``; either is raised then.

        Raises:
            BackendUnavailableError: not installed, or not for this target.
            BuildError: the network was refused; the message names the node.
        """
        self.require(request.target)
        trt = _library()
        operators = {node.op_type for node in checked(request.model).graph.node}
        log = LogBuffer()
        started = time.monotonic()
        with deferred_interrupts() as interrupt:
            stop = _Stop(interrupt)
            # The C++ side keeps a bare pointer to the logger: it has to outlive the builder, so it is made out here.
            logger = _logger(trt, log, stop)
            data = _Compilation(trt, logger, log, stop, progress).run(request, operators)
        facts = log.facts()
        return BuiltEngine(
            data=data,
            backend=self.name,
            backend_version=self.version(),
            target=request.target,
            kernels=facts.kernels,
            kernels_known=facts.kernels_known,
            engine_bytes=len(data),
            weights_bytes=facts.weights_bytes,
            activations_bytes=facts.activations_bytes,
            seconds=time.monotonic() - started,
            log_tail=log.tail(_LOG_TAIL),
        )


@dataclass
class _Stop:
    """Why a build has to stop: a signal, or an exception from a callback, which cannot travel through C++."""

    interrupt: Interrupt
    error: BaseException | None = None

    @property
    def wanted(self) -> bool:
        return self.error is not None or self.interrupt.signum is not None

    def guarded(self, action: Callable[[], object]) -> None:
        """Do ``action``; keep what it raises."""
        try:
            action()
        except BaseException as error:
            self.error = self.error or error


@dataclass
class _Compilation:
    """One build: parse, configure, compile."""

    trt: ModuleType
    logger: Any
    log: LogBuffer
    stop: _Stop
    progress: Progress

    def run(self, request: BuildRequest, operators: Iterable[str]) -> bytes:
        trt = self.trt
        builder = trt.Builder(self.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._parse(network, request.model, operators)
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, request.target.upper()), 0)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the log names kernels and types only with this
        if request.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
        self._add_profile(builder, network, config, request)
        monitor = _monitor(trt, self.progress, self.stop)
        config.progress_monitor = monitor
        engine = builder.build_serialized_network(network, config)
        self._raise_error()
        if engine is None:
            raise _build_error(self.log.errors)
        return bytes(engine)

    def _raise_error(self) -> None:
        if self.stop.error is not None:
            raise self.stop.error

    def _parse(self, network: Any, model: bytes, operators: Iterable[str]) -> None:
        parser = self.trt.OnnxParser(network, self.logger)
        parsed = parser.parse(model)
        self._raise_error()
        if parsed:
            return
        unsupported = sorted(op for op in operators if not parser.supports_operator(op))
        raise _parse_error([parser.get_error(index) for index in range(parser.num_errors)], unsupported)

    def _add_profile(self, builder: Any, network: Any, config: Any, request: BuildRequest) -> None:
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
        for name in request.shapes:
            if name not in shapes:
                raise BuildError(
                    f"Shapes were given for the input {name!r}, which the model does not have.",
                    f"The model's inputs are: {', '.join(shapes)}.",
                )
        profile = builder.create_optimization_profile()
        dynamic = False
        for name, shape in shapes.items():
            shape_range = request.shapes.get(name)
            _check_range(name, shape, shape_range)
            if -1 in shape and shape_range is not None:
                profile.set_shape(name, *shape_range)
                dynamic = True
        if dynamic and config.add_optimization_profile(profile) < 0:
            raise _build_error(self.log.errors)


def _check_range(name: str, shape: tuple[int, ...], shape_range: ShapeRange | None) -> None:
    if shape_range is None:
        if -1 in shape:
            raise BuildError(
                f"The input {name!r} has dynamic axes {list(shape)} and no range of shapes was given.",
                "Give smallest, usual and largest shape, with --batch MIN:OPT:MAX for the batch.",
            )
        return
    smallest, usual, largest = shape_range
    fits = all(
        len(axes) == len(shape) and all(want in (-1, have) for want, have in zip(shape, axes, strict=True))
        for axes in shape_range
    )
    if not fits or not all(0 < a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True)):
        raise BuildError(
            f"The shapes {smallest} {usual} {largest} do not fit the input {name!r}, which takes {list(shape)}.",
            "Every fixed axis must be the model's, and min <= opt <= max on each axis.",
        )


def _library() -> ModuleType:
    try:
        return importlib.import_module("tensorrt_rtx")
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            f"tensorrt-rtx cannot be used: {error}.",
            "Install it with: pip install 'trt-facefusion[rtx]' (or use --backend onnxruntime).",
        ) from error


def _parse_error(errors: Sequence[Any], unsupported: Sequence[str]) -> BuildError:
    where = []
    for error in errors:
        reason = without_noise(error.desc()).removeprefix("Assertion failed: ")
        # `false` is the failed assertion of an importer that does not exist.
        reason = "not supported" if reason == "false" or "Plugin not found" in reason else reason
        node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
        where.append(f"{node}{reason}")
    if unsupported:
        names = ", ".join(unsupported)
        message = f"TensorRT-RTX does not support the operator {names}: {'; '.join(where)}."
        return BuildError(message, _OTHER_MAKER)
    return BuildError(
        f"TensorRT-RTX refused the network: {'; '.join(where) or 'no reason given'}.",
        "Keep the node named here in FP16 in the plan, or build with --backend onnxruntime.",
    )


def _build_error(errors: Sequence[str]) -> BuildError:
    reasons = [text for text in map(without_noise, errors) if text]
    reason = "; ".join(dict.fromkeys(reasons)) or "no reason given"
    remedy = "Build with --backend onnxruntime, or with more workspace if the message speaks of memory."
    return BuildError(f"TensorRT-RTX could not build the engine: {reason}", remedy)


def _logger(trt: ModuleType, log: LogBuffer, stop: _Stop) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            stop.guarded(lambda: log.add(severity.name, text))

    return Logger()


def _monitor(trt: ModuleType, progress: Progress, stop: _Stop) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = PhaseTree()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            stop.guarded(lambda: self._phases.start(phase_name, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            stop.guarded(lambda: self._phases.finish(phase_name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            stop.guarded(lambda: progress("compile", self._phases.step(phase_name, step), 100))
            return not stop.wanted

    return Monitor()


@dataclass
class PhaseTree:
    """Turns nested phases of counted steps into per cent that never fall."""

    _open: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> (steps, done), outermost first
    _percent: int = 0

    def start(self, name: str, steps: int) -> None:
        """A phase of ``steps`` steps begins inside the last one that is open."""
        self._open[name] = (max(steps, 1), 0)

    def finish(self, name: str) -> None:
        """A phase ends."""
        self._open.pop(name, None)

    def step(self, name: str, step: int) -> int:
        """Step number ``step`` (from 0) of a phase is done; gives the whole in per cent."""
        steps, _ = self._open.get(name, (step + 1, 0))
        self._open[name] = (steps, step + 1)
        done, width = 0.0, 1.0
        for phase_steps, phase_done in self._open.values():
            done += width * min(phase_done, phase_steps) / phase_steps
            width /= phase_steps
        self._percent = max(self._percent, min(100, int(100 * done)))
        return self._percent
