"""One engine that is being measured, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from trt_facefusion.engine.backends.registry import get_math_types
from trt_facefusion.engine.runtime.base import Runner, StatesLayerTimes
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.profiling.layers import Layer, merge_layers
from trt_facefusion.evaluation.profiling.measure import (
    Counts,
    CyclingInputs,
    SweepPoint,
    list_powers_between,
    measure_batch,
    measure_throughput,
)
from trt_facefusion.evaluation.profiling.result import Profile, Split
from trt_facefusion.evaluation.profiling.workload import Workload
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.presets.fit import find_fixed_batch, fit_inputs
from trt_facefusion.quantization.precision import read_rows
from trt_facefusion.types import Progress, silent

_LARGEST_SWEPT = 8
"""Where a model takes any batch."""
LAYER_WARMUPS, LAYER_RUNS = 3, 20
"""Calls that do not count, and those behind them whose layers are timed."""


@dataclass(frozen=True)
class CallBreakdown:
    """What only a look inside gives: the host's part of a call, stages, layers; None where there is no such look."""

    host_overhead_us: float | None
    split: Split | None
    layers: tuple[Layer, ...]


class Bench:
    """Opens an engine, and gives its profile; a context manager."""

    workload: Workload
    inputs: CyclingInputs
    runner: Runner

    def __init__(
        self,
        model: OpenedModel,
        counts: Counts,
        in_flight: int,
        flights: tuple[int, ...],
        threads: int | None,
        device: int,
    ) -> None:
        self.model, self.counts = model, counts
        self.in_flight, self.flights = in_flight, flights
        self.threads, self.device = threads, device
        self._open = ExitStack()

    def __enter__(self) -> Bench:
        self.runner = self._open.enter_context(self.open_runner(self.in_flight))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def feed(self, workload: Workload, batch: int | None, batches: tuple[int, ...] | None) -> None:
        """Choose inputs and batch sizes. Raises BadInputError for a batch that the engine does not take."""
        low, usual, high = self.find_batch_range()
        batch = usual if batch is None else batch
        swept = tuple(list_powers_between(low, high or _LARGEST_SWEPT)) if batches is None else batches
        for size in (batch, *swept):
            if size < low or (high is not None and size > high):
                raise BadInputError(
                    f"{self.model.label} takes batches of {low} to {high}, not of {size}",
                    "name a batch in that range, or build the engine with --batch MIN:OPT:MAX",
                )
        self.workload, self.swept = workload, swept
        self.inputs = workload.cycle(batch)
        self.runner.infer(self.inputs.next())

    def find_batch_range(self) -> tuple[int, int, int | None]:
        """Smallest, usual and largest batch; None for the largest where any will do."""
        takes, contract = self.runner.inputs, self.model.contract
        spec = next((spec for spec in takes if spec.shape), None)
        if contract is not None:
            fits = fit_inputs(contract.preset, takes, None)
            fixed = find_fixed_batch(contract.preset, takes, fits)
            if fixed is not None:
                return fixed, fixed, fixed
            spec = next(spec for spec in takes if fits[spec.name].batched)
        if spec is None:
            return 1, 1, 1
        if isinstance(spec.shape[0], int):
            return spec.shape[0], spec.shape[0], spec.shape[0]
        shapes = self.model.manifest.shapes if self.model.manifest is not None else {}
        if spec.name in shapes:
            smallest, usual, largest = shapes[spec.name]
            return smallest[0], usual[0], largest[0]
        return 1, 1, None

    def profile(self, times_ms: tuple[float, ...], progress: Progress = silent) -> Profile:
        """The profile, with the latencies that were measured already."""
        breakdown = self.break_down(progress)
        flights = tuple(self._sweep_flights(progress))
        batches = tuple(self._sweep_batches(progress))
        total, memory = self.measure_memory()
        manifest = self.model.manifest
        return Profile(
            label=self.model.label,
            precision=None if manifest is None else manifest.precision,
            stand_in=self.stand_in,
            device=self.describe_device(),
            inputs=self.workload.text,
            batch=self.inputs.batch,
            times_ms=times_ms,
            in_flight=self.in_flight,
            throughput_per_s=measure_throughput(self.runner, self.inputs, self.in_flight, self.counts.sweep),
            host_overhead_us=breakdown.host_overhead_us,
            memory_bytes=total,
            memory=memory,
            split=breakdown.split,
            layers=breakdown.layers,
            batches=batches,
            flights=flights,
        )

    def _sweep_flights(self, progress: Progress) -> Iterable[SweepPoint]:
        for done, count in enumerate(self.flights, 1):
            with ExitStack() as stack:
                # More slots than are used would be wrong for the memory, fewer would wait.
                runner = self.runner if count == self.in_flight else stack.enter_context(self.open_runner(count))
                yield SweepPoint(count, None, measure_throughput(runner, self.inputs, count, self.counts.sweep))
            progress("in flight", done, len(self.flights))

    def _sweep_batches(self, progress: Progress) -> Iterable[SweepPoint]:
        for done, size in enumerate(self.swept, 1):
            yield measure_batch(self.runner, self.workload.cycle(size), self.counts.sweep)
            progress("batches", done, len(self.swept))

    def read_plan(self) -> list[dict[str, Any]]:
        """The rows of the plan, where there is one."""
        path = self.model.graph.parent / "plan.yaml"
        built_here = self.model.contract is not None and path.is_file()
        return read_rows(path) if built_here else []

    def time_layers(self, runner: StatesLayerTimes) -> tuple[Layer, ...]:
        """Mean times of the layers over some calls, with what the manifest and the plan know of them."""
        total: dict[str, float] = {}
        for number, feeds in enumerate(self.inputs.take(LAYER_WARMUPS + LAYER_RUNS)):
            for name, time_ms in runner.layer_times(feeds):
                if number >= LAYER_WARMUPS:
                    total[name] = total.get(name, 0.0) + time_ms
        mean = {name: time_ms / LAYER_RUNS for name, time_ms in total.items()}
        manifest = self.model.manifest
        if manifest is None:
            return merge_layers(mean, (), self.read_plan(), ())
        return merge_layers(mean, manifest.kernels, self.read_plan(), get_math_types(manifest.backend))

    @property
    def stand_in(self) -> bool:
        """Whether it is not the engine that runs, but its typed ONNX."""
        return False

    def open_runner(self, in_flight: int) -> Runner:
        """A runner for so many inferences at once."""
        raise NotImplementedError

    def break_down(self, progress: Progress) -> CallBreakdown:
        """Look inside: where the time of a call goes."""
        raise NotImplementedError

    def measure_memory(self) -> tuple[int | None, Mapping[str, int | None]]:
        """Bytes in all, and the parts."""
        raise NotImplementedError

    def describe_device(self) -> str:
        """Where it runs."""
        raise NotImplementedError
