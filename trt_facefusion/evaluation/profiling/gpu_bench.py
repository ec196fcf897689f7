"""A TensorRT engine that is measured on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from trt_facefusion.engine.backends.device import Device, ask_device
from trt_facefusion.engine.runtime.base import Runner, StatesLayerTimes
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.evaluation.profiling.bench import Bench, CallBreakdown
from trt_facefusion.evaluation.profiling.layers import Layer
from trt_facefusion.evaluation.profiling.result import Split
from trt_facefusion.evaluation.profiling.workload import Workload
from trt_facefusion.types import Progress


class GpuBench(Bench):
    """A TensorRT engine on a GPU."""

    runner: PycudaRunner

    def __enter__(self) -> Bench:
        self._before = ask_device()
        return super().__enter__()

    def feed(self, workload: Workload, batch: int | None, batches: tuple[int, ...] | None) -> None:
        """As of every bench; the device's memory is looked at before another engine is opened."""
        super().feed(workload, batch, batches)
        self._after = self._ask_device()

    def open_runner(self, in_flight: int) -> Runner:
        """A runner with so many slots."""
        return self.model.open_runner(slots=in_flight, device=self.device)

    def break_down(self, progress: Progress) -> CallBreakdown:
        """Events split the stages; TensorRT's profiler times the layers, in a runner of their own."""
        overheads_ms, splits = [], []
        for feeds in self.inputs.take(self.counts.rounds):
            start = time.perf_counter()
            _, stages = self.runner.infer_timed(feeds)
            call_ms = 1e3 * (time.perf_counter() - start)
            splits.append(stages)
            overheads_ms.append(call_ms - stages.upload_ms - stages.compute_ms - stages.download_ms)
        split = Split(
            statistics.median(stages.upload_ms for stages in splits),
            statistics.median(stages.compute_ms for stages in splits),
            statistics.median(stages.download_ms for stages in splits),
        )
        return CallBreakdown(1e3 * statistics.median(overheads_ms), split, self._time_layers(progress))

    def _time_layers(self, progress: Progress) -> tuple[Layer, ...]:
        progress("layers", 0, 0)
        with self.model.open_runner(slots=1, device=self.device, layers=True) as runner:
            assert isinstance(runner, StatesLayerTimes)
            return self.time_layers(runner)

    def measure_memory(self) -> tuple[int | None, Mapping[str, int | None]]:
        """What the runner asked for and the weights; and what the driver has less than before."""
        weights = self.model.manifest.weights_bytes if self.model.manifest is not None else None
        runner_bytes = self.runner.memory_bytes
        return runner_bytes + (weights or 0), {
            "runner_bytes": runner_bytes,
            "weights_bytes": weights,
            "device_difference_bytes": _subtract_free(self._before, self._after),
        }

    def _ask_device(self) -> Device | None:
        return ask_device() if self.device == 0 else None

    def describe_device(self) -> str:
        """Name, target and driver."""
        gpu = self._ask_device()
        return f"GPU {self.device}" if gpu is None else f"{gpu.name}, {gpu.target}, CUDA driver {gpu.driver}"


def _subtract_free(before: Device | None, after: Device | None) -> int | None:
    return None if before is None or after is None else before.free_bytes - after.free_bytes
