"""Engines that run on the CPU: in ONNX Runtime, or in another library behind the protocol of runners."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import onnx

from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.engine.backends.capabilities import Judged
from trt_facefusion.engine.backends.onnxruntime import OnnxRuntime, read_kernels
from trt_facefusion.engine.runtime.base import Runner, StatesLayerTimes
from trt_facefusion.engine.runtime.onnxruntime import OPTIMISED, OnnxRuntimeRunner
from trt_facefusion.evaluation.profiling.bench import LAYER_RUNS, LAYER_WARMUPS, Bench, CallBreakdown
from trt_facefusion.evaluation.profiling.layers import merge_layers
from trt_facefusion.evaluation.profiling.machine import describe_processor
from trt_facefusion.evaluation.profiling.memory import measure_resident_bytes
from trt_facefusion.evaluation.profiling.onnx_trace import read_trace
from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.types import Progress


class CpuBench(Bench):
    """ONNX Runtime on the CPU."""

    @property
    def stand_in(self) -> bool:
        """Of all engines but ONNX Runtime's own."""
        backend = self.model.backend
        return backend is not None and backend.capabilities.judged is not Judged.TYPED_ONNX

    def open_runner(self, in_flight: int) -> Runner:
        """A session; any number of threads may use it."""
        return OnnxRuntimeRunner(self.model.graph, threads=self.threads)

    def break_down(self, progress: Progress) -> CallBreakdown:
        """Runs the same graph once more under ONNX Runtime's profiler."""
        progress("layers", 0, 0)
        with scratch_folder() as name:
            folder = Path(name)
            calls_ms: list[float] = []
            with OnnxRuntimeRunner(self.model.graph, threads=self.threads, trace=folder) as runner:
                for feeds in self.inputs.take(LAYER_WARMUPS + LAYER_RUNS):
                    start = time.perf_counter()
                    runner.infer(feeds)
                    calls_ms.append(1e3 * (time.perf_counter() - start))
                trace = read_trace(runner.end_trace(), skip=LAYER_WARMUPS)
            kernels = list(read_kernels(onnx.load(self.model.graph), onnx.load(folder / OPTIMISED)))
        named = {kernel.name for kernel in kernels}
        kernels += [Kernel(name, trace.node_types[name]) for name in trace.node_ms if name not in named]
        pairs = zip(calls_ms[LAYER_WARMUPS:], trace.runs_ms, strict=True)
        overhead_ms = statistics.median(call - run for call, run in pairs)
        return CallBreakdown(
            1e3 * overhead_ms,
            None,
            merge_layers(trace.node_ms, kernels, self.read_plan(), OnnxRuntime.capabilities.math_types),
        )

    def measure_memory(self) -> tuple[int | None, Mapping[str, int | None]]:
        """What a process of its own grows by."""
        grown = measure_resident_bytes(self.model.graph, self.inputs.next(), self.threads)
        return grown, {"process_growth_bytes": grown}

    def describe_device(self) -> str:
        """The processor and the threads."""
        return describe_processor(self.threads)


class OpaqueBench(Bench):
    """An engine of another library on the CPU: the time of its calls, and of its layers if its runner states them."""

    def open_runner(self, in_flight: int) -> Runner:
        """What its backend opens."""
        return self.model.open_runner(slots=in_flight, device=self.device, threads=self.threads)

    def break_down(self, progress: Progress) -> CallBreakdown:
        """Layers, in a runner of their own; nothing of a library that states none."""
        progress("layers", 0, 0)
        with self.model.open_runner(slots=1, threads=self.threads, layers=True) as runner:
            layers = self.time_layers(runner) if isinstance(runner, StatesLayerTimes) else ()
        return CallBreakdown(None, None, layers)

    def measure_memory(self) -> tuple[int | None, Mapping[str, int | None]]:
        """Not known."""
        return None, {}

    def describe_device(self) -> str:
        """The processor and the threads."""
        return describe_processor(self.threads)
