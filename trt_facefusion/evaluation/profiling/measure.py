"""Takes the times of runners, on any device."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.evaluation.profiling.statistics import Latency, alternate_order, compute_throughput
from trt_facefusion.types import Feeds, Progress, silent

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Counts:
    """How often is measured: calls before anything counts, rounds of latency, calls of each sweep's point."""

    warmups: int = 60
    rounds: int = 150
    sweep: int = 40


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep: ``at`` is a batch size or the number of inferences in flight."""

    at: int
    latency_ms: float | None
    """Median of one call; None where several are in flight at once."""
    throughput_per_s: float


class CyclingInputs:
    """Inputs of ``batch`` samples that take turns, so that no cache knows them all (default: axis 0)."""

    def __init__(self, feeds: Sequence[Feeds], batch: int | None = None) -> None:
        self.feeds = tuple(feeds)
        self._batch = batch
        self._turns = itertools.cycle(self.feeds)

    @property
    def batch(self) -> int:
        """Samples in each of them."""
        return len(next(iter(self.feeds[0].values()))) if self._batch is None else self._batch

    def next(self) -> Feeds:
        """The next inputs."""
        return next(self._turns)

    def take(self, count: int) -> Iterator[Feeds]:
        """The next ``count`` inputs."""
        return itertools.islice(self._turns, count)


def time_interleaved(
    calls: Sequence[Call],
    warmups: int,
    rounds: int,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress = silent,
) -> list[list[float]]:
    """Milliseconds of each call in each round; every round runs all of them, in alternating order.

    Warm-ups run in the same order before anything counts.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number, order in enumerate(alternate_order(len(calls), warmups + rounds)):
        for index in order:
            start = clock()
            calls[index]()
            elapsed = clock() - start
            if number >= warmups:
                times[index].append(1e3 * elapsed)
        progress("latency", number + 1, warmups + rounds)
    return times


def measure_throughput(
    runner: Runner, inputs: CyclingInputs, in_flight: int, calls: int, *, clock: Clock = time.perf_counter
) -> float:
    """Samples per second with ``in_flight`` inferences at once; a GPU runner needs as many slots."""
    for feeds in inputs.take(in_flight):
        runner.infer(feeds)
    start = clock()
    if isinstance(runner, PycudaRunner):
        for _ in runner.map(inputs.take(calls)):
            pass
    else:
        with ThreadPoolExecutor(in_flight) as pool:
            for _ in pool.map(runner.infer, list(inputs.take(calls))):
                pass
    return compute_throughput(calls * inputs.batch, clock() - start)


def measure_batch(runner: Runner, inputs: CyclingInputs, calls: int, *, clock: Clock = time.perf_counter) -> SweepPoint:
    """Latency and throughput of one batch size, one call after the other."""
    (times,) = time_interleaved([lambda: runner.infer(inputs.next())], max(3, calls // 5), calls, clock=clock)
    return SweepPoint(inputs.batch, Latency.of(times).p50, compute_throughput(calls * inputs.batch, sum(times) / 1e3))


def list_powers_between(low: int, high: int) -> list[int]:
    """``low``, the powers of two above it, and ``high``."""
    inside = [1 << power for power in range(1 + int(np.log2(high))) if low < 1 << power < high]
    return sorted({low, *inside, high})
