"""CUDA graphs: what one inference queues, captured once and launched with one call from then on.

pycuda has no graphs. The bindings of cuda-python (``cuda.bindings``, optional) call the same driver, so they capture
what pycuda and TensorRT put into pycuda's stream. Where they are missing, or a capture fails, everything runs as it
would without them, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

# TensorRT settles its state for new shapes in a call that cannot be captured; the second shows that the shapes stay.
_PLAIN_CALLS = 2
# Whatever else the thread does may break a capture; an engine that cannot be captured breaks every one.
_TRIES = 2


@dataclass(frozen=True)
class GraphUse:
    """What became of CUDA graphs: how many were captured and launched; why none are used (None: nothing is wrong)."""

    captured: int = 0
    launched: int = 0
    off: str | None = None


def total(uses: Iterable[GraphUse]) -> GraphUse:
    """The use of several slots as one."""
    uses = tuple(uses)
    reasons = [use.off for use in uses if use.off is not None]
    return GraphUse(sum(use.captured for use in uses), sum(use.launched for use in uses), next(iter(reasons), None))


class SlotGraph:
    """The graph of one slot; one thread at a time, the CUDA context current, and nothing in flight when it is captured.

    Args:
        stream: the handle of the slot's stream.
        wanted: False never captures.
    """

    def __init__(self, stream: int, enabled: bool = True) -> None:
        self._stream = stream
        self._driver: Any = None
        self._executable: Any = None
        self._plain_calls = 0
        self._failures = 0
        self._captured = self._launched = 0
        self._off: str | None = None if enabled else "not asked for"
        if enabled:
            try:
                from cuda.bindings import driver
            except (ImportError, OSError) as error:
                self._off = f"cuda-python cannot be loaded: {error}"
            else:
                self._driver = driver

    @property
    def use(self) -> GraphUse:
        """What became of it so far."""
        return GraphUse(self._captured, self._launched, self._off)

    def run(self, queue: Callable[[], None]) -> None:
        """Have the work done that ``queue`` puts into the stream, by the graph where there is one.

        Raises:
            Exception: whatever ``queue`` raises outside of a capture.
        """
        if self._off is None and self._plain_calls >= _PLAIN_CALLS and self._launch(queue):
            return
        queue()
        self._plain_calls += 1

    def forget(self) -> None:
        """Drop the graph: shapes or addresses change. Nothing of it may be in flight."""
        self._plain_calls = 0
        if self._executable is not None:
            executable, self._executable = self._executable, None
            with suppress(_DriverError):  # a context that is broken tells it to whoever uses it next
                self._call("cuGraphExecDestroy", executable)

    def abandon(self) -> None:
        """Drop the graph of a context that is lost, which takes no calls any more."""
        self._executable = None

    def _launch(self, queue: Callable[[], None]) -> bool:
        """Whether the work is in the stream now; if not, nothing of it is."""
        try:
            if self._executable is None:
                self._executable = self._capture(queue)
                self._captured += 1
            self._call("cuGraphLaunch", self._executable, self._driver.CUstream(self._stream))
        except Exception as error:  # of the driver, of TensorRT or of pycuda inside of the capture
            self._failures += 1
            self.forget()
            if self._failures >= _TRIES:
                self._off = f"{error}"
            return False
        self._launched += 1
        return True

    def _capture(self, queue: Callable[[], None]) -> Any:
        driver = self._driver
        stream = driver.CUstream(self._stream)
        # Only this thread's calls can break it: other slots allocate nothing, but the process is not ours alone.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            queue()
        except BaseException:
            with suppress(_DriverError):  # the capture is broken, and that is said here
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", stream))
            raise
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._driver, name)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise _DriverError(f"{name}: {status.name}")
        return values[0] if values else None


class _DriverError(Exception):
    """A call of the driver failed."""
