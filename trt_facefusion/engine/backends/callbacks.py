"""What TensorRT and TensorRT-RTX call back while they build: the log, the progress, and the way to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from trt_facefusion.engine.backends.interrupts import Interrupt
from trt_facefusion.engine.backends.rtx_log import LogBuffer
from trt_facefusion.types import Progress

if TYPE_CHECKING:
    import tensorrt as trt

T = TypeVar("T")


@dataclass
class Stop:
    """Why a build has to stop: a signal, or an exception from a callback, which cannot travel through C++."""

    interrupt: Interrupt
    error: BaseException | None = None

    @property
    def requested(self) -> bool:
        """Whether the build is to end at its next step."""
        return self.error is not None or self.interrupt.signum is not None

    def guarded(self, action: Callable[[], T]) -> T | None:
        """The result of ``action``; what it raises is kept, and the result is then None."""
        try:
            return action()
        except BaseException as error:
            self.error = self.error or error
            return None

    def raise_error(self) -> None:
        """Raise what a callback raised."""
        if self.error is not None:
            raise self.error


def make_logger(api: ModuleType, log: LogBuffer, stop: Stop) -> trt.ILogger:
    """A logger that keeps every message. The C++ side holds a bare pointer to it: it has to outlive the builder."""
    trt = api

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            stop.guarded(lambda: log.add(severity.name, msg))

    return Logger()


def make_monitor(api: ModuleType, progress: Progress, stop: Stop) -> trt.IProgressMonitor:
    """A monitor that reports per cent of the stage ``compile`` and cancels the build when ``stop`` wants it."""
    trt = api

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
            return not stop.requested

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
