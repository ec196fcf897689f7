"""TensorRT's own times for the layers of an engine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from trt_facefusion.errors import DeviceError

if TYPE_CHECKING:
    import tensorrt as trt


class LayerTimes:
    """Collects the times of one inference at a time from an execution context.

    A context that is watched runs slower and cannot be captured in a CUDA graph: give it no other work. It may keep
    but a bare pointer to what it reports to, so this object has to outlive it.
    """

    def __init__(self, context: trt.IExecutionContext) -> None:
        self.times_ms: list[tuple[str, float]] = []
        # The module that the context is of: TensorRT's, or TensorRT-RTX's.
        self._profiler = make_profiler(sys.modules[type(context).__module__], self.times_ms)
        # The times are asked for when the inference is done; otherwise enqueueing would wait for it.
        context.enqueue_emits_profile = False
        context.profiler = self._profiler

    def read(self, context: trt.IExecutionContext) -> list[tuple[str, float]]:
        """Name and milliseconds of every layer of the inference that was waited for last, in the order of execution.

        Raises:
            DeviceError: TensorRT has none.
        """
        self.times_ms.clear()
        if not context.report_to_profiler() or not self.times_ms:
            raise DeviceError(
                "TensorRT reports no times for the layers.",
                "Build the engine again on this machine; engines of a lean or dispatch runtime cannot be profiled.",
            )
        return list(self.times_ms)


def make_profiler(api: Any, into: list[tuple[str, float]]) -> Any:
    """An ``IProfiler`` of the library ``api`` that appends every layer's name and milliseconds to ``into``."""
    trt = api

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 wants its own called by name

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            into.append((str(layer_name), float(ms)))

    return Profiler()
