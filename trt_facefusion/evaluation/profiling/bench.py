"""One engine that is being measured: on a GPU, or in ONNX Runtime on the CPU."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx

from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.engine.backends.device import Device, current_device
from trt_facefusion.engine.backends.onnxruntime import kernels_of
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.onnxruntime import OPTIMISED, OnnxRuntimeRunner
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.profiling.layers import Layer, layers
from trt_facefusion.evaluation.profiling.measure import Counts, Point, Ring, batch_point, powers_between, throughput
from trt_facefusion.evaluation.profiling.memory import resident_bytes
from trt_facefusion.evaluation.profiling.onnx_trace import read_trace
from trt_facefusion.evaluation.profiling.result import Profile, Split
from trt_facefusion.evaluation.profiling.workload import Source
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.presets.fit import batch_of, fit_inputs
from trt_facefusion.quantization.precision import read_rows
from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.types import Progress, silent

_LARGEST_SWEPT = 8
"""Where a model takes any batch."""
_LAYER_WARMUPS = 3
_LAYER_RUNS = 20


@dataclass(frozen=True)
class Inside:
    """What only a look inside gives: the host's part of a call, stages, layers."""

    host_overhead_us: float
    split: Split | None
    layers: tuple[Layer, ...]


class Bench:
    """Opens an engine, and gives its profile; a context manager."""

    source: Source
    ring: Ring
    runner: Runner

    def __init__(
        self,
        found: OpenedModel,
        counts: Counts,
        in_flight: int,
        flights: tuple[int, ...],
        threads: int | None,
        device: int,
    ) -> None:
        self.found, self.counts = found, counts
        self.in_flight, self.flights = in_flight, flights
        self.threads, self.device = threads, device
        self._open = ExitStack()

    def __enter__(self) -> Bench:
        self.runner = self._open.enter_context(self.opened(self.in_flight))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def feed(self, source: Source, batch: int | None, batches: tuple[int, ...] | None) -> None:
        """Choose inputs and batch sizes. Raises BadInputError for a batch that the engine does not take."""
        low, usual, high = self.batch_range()
        chosen = usual if batch is None else batch
        swept = tuple(powers_between(low, high or _LARGEST_SWEPT)) if batches is None else batches
        for size in (chosen, *swept):
            if size < low or (high is not None and size > high):
                raise BadInputError(
                    f"{self.found.label} takes batches of {low} to {high}, not of {size}",
                    "name a batch in that range, or build the engine with --batch MIN:OPT:MAX",
                )
        self.source, self.swept = source, swept
        self.ring = source.ring(chosen)
        self.runner.infer(self.ring.next())

    def batch_range(self) -> tuple[int, int, int | None]:
        """Smallest, usual and largest batch; None for the largest where any will do."""
        takes, contract = self.runner.inputs, self.found.contract
        spec = next((spec for spec in takes if spec.shape), None)
        if contract is not None:
            fits = fit_inputs(contract.preset, takes, None)
            fixed = batch_of(contract.preset, takes, fits)
            if fixed is not None:
                return fixed, fixed, fixed
            spec = next(spec for spec in takes if fits[spec.name].batched)
        if spec is None:
            return 1, 1, 1
        if isinstance(spec.shape[0], int):
            return spec.shape[0], spec.shape[0], spec.shape[0]
        shapes = self.found.manifest.shapes if self.found.manifest is not None else {}
        if spec.name in shapes:
            smallest, usual, largest = shapes[spec.name]
            return smallest[0], usual[0], largest[0]
        return 1, 1, None

    def profile(self, times_ms: tuple[float, ...], progress: Progress = silent) -> Profile:
        """The profile, with the latencies that were measured already."""
        inside = self.inside(progress)
        flights = tuple(self._flights(progress))
        batches = tuple(self._batches(progress))
        total, memory = self.memory()
        manifest = self.found.manifest
        return Profile(
            label=self.found.label,
            precision=None if manifest is None else manifest.precision,
            stand_in=self.found.needs_gpu and not isinstance(self.runner, PycudaRunner),
            device=self.device_text(),
            inputs=self.source.text,
            batch=self.ring.batch,
            times_ms=times_ms,
            in_flight=self.in_flight,
            throughput_per_s=throughput(self.runner, self.ring, self.in_flight, self.counts.sweep),
            host_overhead_us=inside.host_overhead_us,
            memory_bytes=total,
            memory=memory,
            split=inside.split,
            layers=inside.layers,
            batches=batches,
            flights=flights,
        )

    def _flights(self, progress: Progress) -> Iterable[Point]:
        for done, count in enumerate(self.flights, 1):
            with ExitStack() as stack:
                # More slots than are used would be wrong for the memory, fewer would wait.
                runner = self.runner if count == self.in_flight else stack.enter_context(self.opened(count))
                yield Point(count, None, throughput(runner, self.ring, count, self.counts.sweep))
            progress("in flight", done, len(self.flights))

    def _batches(self, progress: Progress) -> Iterable[Point]:
        for done, size in enumerate(self.swept, 1):
            yield batch_point(self.runner, self.source.ring(size), self.counts.sweep)
            progress("batches", done, len(self.swept))

    def plan(self) -> list[dict[str, Any]]:
        """The rows of the plan, where there is one."""
        path = self.found.graph.parent / "plan.yaml"
        known = self.found.contract is not None and path.is_file()
        return read_rows(path) if known else []

    def opened(self, in_flight: int) -> Runner:
        """A runner for so many inferences at once."""
        raise NotImplementedError

    def inside(self, progress: Progress) -> Inside:
        """The look inside."""
        raise NotImplementedError

    def memory(self) -> tuple[int | None, Mapping[str, int | None]]:
        """Bytes in all, and the parts."""
        raise NotImplementedError

    def device_text(self) -> str:
        """Where it runs."""
        raise NotImplementedError


class CpuBench(Bench):
    """ONNX Runtime on the CPU."""

    def opened(self, in_flight: int) -> Runner:
        """A session; any number of threads may use it."""
        return OnnxRuntimeRunner(self.found.graph, threads=self.threads)

    def inside(self, progress: Progress) -> Inside:
        """Runs the same graph once more under ONNX Runtime's profiler."""
        progress("layers", 0, 0)
        with scratch_folder() as name:
            folder = Path(name)
            calls_ms: list[float] = []
            with OnnxRuntimeRunner(self.found.graph, threads=self.threads, trace=folder) as runner:
                for feeds in self.ring.take(_LAYER_WARMUPS + _LAYER_RUNS):
                    start = time.perf_counter()
                    runner.infer(feeds)
                    calls_ms.append(1e3 * (time.perf_counter() - start))
                trace = read_trace(runner.end_trace(), skip=_LAYER_WARMUPS)
            kernels = list(kernels_of(onnx.load(self.found.graph), onnx.load(folder / OPTIMISED)))
        known = {kernel.name for kernel in kernels}
        kernels += [Kernel(name, trace.node_types[name]) for name in trace.node_ms if name not in known]
        pairs = zip(calls_ms[_LAYER_WARMUPS:], trace.runs_ms, strict=True)
        overhead_ms = statistics.median(call - run for call, run in pairs)
        return Inside(1e3 * overhead_ms, None, layers(trace.node_ms, kernels, self.plan()))

    def memory(self) -> tuple[int | None, Mapping[str, int | None]]:
        """What a process of its own grows by."""
        grown = resident_bytes(self.found.graph, self.ring.next(), self.threads)
        return grown, {"process_growth_bytes": grown}

    def device_text(self) -> str:
        """The processor and the threads."""
        threads = "all threads" if self.threads is None else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{_processor()}, {threads}"


class GpuBench(Bench):
    """A TensorRT engine on a GPU."""

    runner: PycudaRunner

    def __enter__(self) -> Bench:
        self._before = current_device()
        return super().__enter__()

    def feed(self, source: Source, batch: int | None, batches: tuple[int, ...] | None) -> None:
        """As of every bench; the device's memory is looked at before another engine is opened."""
        super().feed(source, batch, batches)
        self._after = self._now()

    def opened(self, in_flight: int) -> Runner:
        """A runner with so many slots."""
        return self.found.open(slots=in_flight, device=self.device)

    def inside(self, progress: Progress) -> Inside:
        """Events split the stages; TensorRT's profiler times the layers, in a runner of their own."""
        overheads_ms, splits = [], []
        for feeds in self.ring.take(self.counts.rounds):
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
        return Inside(1e3 * statistics.median(overheads_ms), split, self._layers(progress))

    def _layers(self, progress: Progress) -> tuple[Layer, ...]:
        progress("layers", 0, 0)
        total: dict[str, float] = {}
        with self.found.open(slots=1, device=self.device) as runner:
            assert isinstance(runner, PycudaRunner)
            for number, feeds in enumerate(self.ring.take(_LAYER_WARMUPS + _LAYER_RUNS)):
                for name, time_ms in runner.layer_times(feeds):
                    if number >= _LAYER_WARMUPS:
                        total[name] = total.get(name, 0.0) + time_ms
        mean = {name: time_ms / _LAYER_RUNS for name, time_ms in total.items()}
        kernels = self.found.manifest.kernels if self.found.manifest is not None else ()
        return layers(mean, kernels, self.plan())

    def memory(self) -> tuple[int | None, Mapping[str, int | None]]:
        """What the runner asked for and the weights; and what the driver has less than before."""
        weights = self.found.manifest.weights_bytes if self.found.manifest is not None else None
        taken = self.runner.memory_bytes
        return taken + (weights or 0), {
            "runner_bytes": taken,
            "weights_bytes": weights,
            "device_difference_bytes": _difference(self._before, self._after),
        }

    def _now(self) -> Device | None:
        return current_device() if self.device == 0 else None

    def device_text(self) -> str:
        """Name, target and driver."""
        known = self._now()
        return f"GPU {self.device}" if known is None else f"{known.name}, {known.target}, CUDA driver {known.driver}"


def _difference(before: Device | None, after: Device | None) -> int | None:
    return None if before is None or after is None else before.free_bytes - after.free_bytes


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what was measured with."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("trt-facefusion", "onnxruntime", "tensorrt", "pycuda", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
