"""Times and memory of engines that run on this machine: all take turns in one process, so that all are slowed alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from trt_facefusion.engine.backends.capabilities import Judged
from trt_facefusion.errors import BackendUnavailableError, DeviceError, StoreError, TrtFaceFusionError
from trt_facefusion.evaluation.profiling.bench import Bench
from trt_facefusion.evaluation.profiling.measure import Counts, measure_throughput, time_interleaved
from trt_facefusion.evaluation.profiling.memory import measure_peak_bytes
from trt_facefusion.evaluation.profiling.run import choose_bench
from trt_facefusion.evaluation.profiling.statistics import Latency
from trt_facefusion.evaluation.profiling.workload import PhotoSettings, make_workload
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.lineup.entry import Entry, RunTiming
from trt_facefusion.types import Progress, silent

_UNDISTURBED = 0.9


@dataclass(frozen=True)
class TimingSettings:
    """How often and with how many threads is measured; None leaves threads to the libraries."""

    counts: Counts
    threads: int | None = None
    device: int = 0


def measure_entries(
    entries: Sequence[Entry], settings: TimingSettings, progress: Progress = silent
) -> tuple[list[Entry], float | None]:
    """``entries`` with the times of those that run here, and `Watch.share`; of the others a remark says why not.

    They are fed with random values of the right range: times hardly depend on what is seen.
    """
    measured = list(entries)
    with ExitStack() as stack:
        benches: dict[int, Bench] = {}
        for index, entry in enumerate(entries):
            if entry.folder is None:
                continue
            model = open_model(entry.folder)
            try:
                _require_meaning(model)
                benches[index] = _open_bench(stack, model, settings)
            except (StoreError, BackendUnavailableError, DeviceError) as error:
                measured[index] = replace(entry, remarks=(*entry.remarks, f"not timed here: {error.message}"))
        if not benches:
            return measured, None
        calls = [lambda bench=bench: bench.runner.infer(bench.inputs.next()) for bench in benches.values()]
        watch = Watch()
        times = time_interleaved(calls, settings.counts.warmups, settings.counts.rounds, progress=progress)
        share = None if any(bench.model.needs_gpu for bench in benches.values()) else watch.share
        for (index, bench), own in zip(benches.items(), times, strict=True):
            throughput = measure_throughput(bench.runner, bench.inputs, 1, settings.counts.sweep)
            peak = None if bench.model.needs_gpu else _measure_peak(bench, settings)
            measured[index] = replace(entries[index], timing=RunTiming(Latency.of(own), min(own), throughput, peak))
    return measured, share


class Watch:
    """How much of a processor this process gets from here on."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    @property
    def share(self) -> float:
        """Processor time for each second since then: above 1 with several threads, far below on a busy machine."""
        return (time.process_time() - self._processor) / max(time.perf_counter() - self._wall, 1e-9)


def describe_disturbance(share: float | None) -> str:
    """What is said of times that were taken while others had the machine; empty where they were not."""
    if share is None or share >= _UNDISTURBED:
        return ""
    return f" THE MACHINE WAS BUSY: this process got {share:.0%} of a processor, so times are disturbed."


def _open_bench(stack: ExitStack, model: OpenedModel, settings: TimingSettings) -> Bench:
    bench = choose_bench(model, stand_in=False)(model, settings.counts, 1, (), settings.threads, settings.device)
    stack.enter_context(bench)
    bench.feed(make_workload(model, bench.runner.inputs, PhotoSettings()), None, ())
    return bench


def _measure_peak(bench: Bench, settings: TimingSettings) -> int | None:
    manifest = bench.model.manifest
    return measure_peak_bytes(bench.model.engine, manifest is not None, bench.inputs.next(), settings.threads)


def runs_for_real(model: OpenedModel) -> bool:
    """Whether the engine itself runs on a processor, rather than on a GPU, or in a simulator of something else."""
    backend = model.backend
    if backend is None:
        return True
    return not backend.capabilities.needs_gpu and backend.capabilities.judged in {Judged.ENGINE, Judged.TYPED_ONNX}


def _require_meaning(model: OpenedModel) -> None:
    """Raise `BackendUnavailableError` for an engine that only a simulator runs here."""
    if not (model.needs_gpu or runs_for_real(model)):
        raise BackendUnavailableError(
            "it runs on another kind of processor; what stands in for it here says nothing of time", "run it there"
        )


def explain(error: TrtFaceFusionError) -> str:
    """An error as the reason of a row."""
    return f"{error.message} {error.remedy}".strip()
