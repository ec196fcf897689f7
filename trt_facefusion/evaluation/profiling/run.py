"""`trt-ff profile`: one engine, or two in turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trt_facefusion.errors import BackendUnavailableError, BadInputError
from trt_facefusion.evaluation.profiling import trtexec
from trt_facefusion.evaluation.profiling.bench import Bench, bench_type
from trt_facefusion.evaluation.profiling.measure import Counts, interleaved
from trt_facefusion.evaluation.profiling.result import Profile
from trt_facefusion.evaluation.profiling.statistics import Comparison, compare
from trt_facefusion.evaluation.profiling.trtexec import TrtexecTimes
from trt_facefusion.evaluation.profiling.workload import Inputs, inputs_for
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.types import Progress, silent

Note = Callable[[str], None]


@dataclass(frozen=True)
class ProfileSettings:
    """Everything that ``trt-ff profile`` was told.

    ``batch`` None is the usual one of the engine; ``batches`` and ``flights`` are the points of the sweeps (None: those
    that suit the engine); ``trtexec_path`` None looks on PATH.
    """

    engine: Path
    against: Path | None = None
    faces: Path | None = None
    aligned: bool = False
    embedder: Path | None = None
    batch: int | None = None
    batches: tuple[int, ...] | None = None
    flights: tuple[int, ...] = (1, 2, 4)
    in_flight: int = 2
    counts: Counts = field(default_factory=Counts)
    threads: int | None = None
    device: int = 0
    stand_in: bool = False
    trtexec: bool = False
    trtexec_path: Path | None = None


@dataclass(frozen=True)
class ProfileResult:
    """The profile of one engine, and what it was compared with."""

    one: Profile
    other: Profile | None = None
    comparison: Comparison | None = None
    trtexec: TrtexecTimes | None = None

    @property
    def trtexec_ratio(self) -> dict[str, float] | None:
        """How many times as long this runtime takes as trtexec: the GPU's part, and with the host's."""
        if self.trtexec is None or self.one.split is None:
            return None
        return {
            "compute": self.one.split.compute_ms / self.trtexec.compute_ms,
            "device": self.one.split.total_ms / self.trtexec.latency.p50,
            "latency": self.one.latency.p50 / self.trtexec.latency.p50,
        }

    def as_dict(self, versions: dict[str, str]) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        document: dict[str, Any] = {**self.one.as_dict(), "versions": versions}
        if self.other is not None and self.comparison is not None:
            document["against"] = self.other.as_dict()
            document["comparison"] = asdict(self.comparison)
        if self.trtexec is not None:
            document["trtexec"] = {
                "latency_ms": self.trtexec.latency.as_dict(),
                "split_ms": {
                    "upload": self.trtexec.upload_ms,
                    "compute": self.trtexec.compute_ms,
                    "download": self.trtexec.download_ms,
                },
                "calls": self.trtexec.calls,
                "command": list(self.trtexec.command),
                "ratio": self.trtexec_ratio,
            }
        return document


def profile(settings: ProfileSettings, progress: Progress = silent, note: Note = lambda _: None) -> ProfileResult:
    """Measure one engine, or two in alternating order.

    Raises:
        TrtFaceFusionError: nothing to run, no GPU for an engine that needs one, inputs that do not fit, no trtexec.
    """
    subjects = [open_model(path) for path in (settings.engine, settings.against) if path is not None]
    program = _trtexec(settings, subjects[0])
    with ExitStack() as stack:
        benches = [_opened(stack, settings, found, note) for found in subjects]
        rings = [bench.ring for bench in benches]
        calls = [
            lambda bench=bench, ring=ring: bench.runner.infer(ring.next())
            for bench, ring in zip(benches, rings, strict=True)
        ]
        times = interleaved(calls, settings.counts.warmups, settings.counts.rounds, progress=progress)
        profiles = [bench.profile(tuple(own), progress) for bench, own in zip(benches, times, strict=True)]
        shapes = {name: value.shape for name, value in benches[0].ring.next().items()}
    if any(found.stand_in for found in profiles):
        note("warning: this is NOT the engine: its typed ONNX was profiled on the CPU, which says nothing of a GPU")
    comparison = compare(times[0], times[1]) if len(times) > 1 else None
    beside = None
    if program is not None:
        progress("trtexec", 0, 0)
        beside = trtexec.run(
            program, subjects[0].engine, _dynamic(subjects[0], shapes), settings.counts.rounds, settings.device
        )
    return ProfileResult(profiles[0], profiles[1] if len(profiles) > 1 else None, comparison, beside)


def _opened(stack: ExitStack, settings: ProfileSettings, found: OpenedModel, note: Note) -> Bench:
    on_gpu = found.needs_gpu and not settings.stand_in
    kind = bench_type(found, stand_in=settings.stand_in)
    try:
        bench = kind(found, settings.counts, settings.in_flight, settings.flights, settings.threads, settings.device)
        stack.enter_context(bench)
    except BackendUnavailableError as error:
        if not on_gpu:
            raise
        raise BackendUnavailableError(
            f"{found.label} runs on a GPU only. {error.message}",
            f"{error.remedy.rstrip('.')}; --stand-in profiles its typed ONNX on this CPU (which is not the engine).",
        ) from error
    inputs = Inputs(settings.faces, settings.aligned, settings.embedder)
    bench.feed(inputs_for(found, bench.runner.inputs, inputs, note), settings.batch, settings.batches)
    return bench


def _trtexec(settings: ProfileSettings, found: OpenedModel) -> Path | None:
    if not settings.trtexec:
        return None
    if not found.needs_gpu or settings.stand_in:
        raise BadInputError(
            f"trtexec cannot run {found.label} beside it: only TensorRT engines on a GPU", "leave --trtexec out"
        )
    return trtexec.find(settings.trtexec_path)


def _dynamic(found: OpenedModel, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes to name for trtexec: of a static engine none."""
    ranges = found.manifest.shapes if found.manifest is not None else {}
    return {name: shape for name, shape in shapes.items() if name in ranges and len(set(ranges[name])) > 1}
