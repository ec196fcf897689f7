"""`trt-ff profile`: one engine, or two in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trt_facefusion.engine.backends.capabilities import Judged
from trt_facefusion.engine.store.machine import ask_machine
from trt_facefusion.engine.timing.factors import FittedFactors
from trt_facefusion.engine.timing.gpus import GpuModel
from trt_facefusion.errors import BackendUnavailableError, BadInputError
from trt_facefusion.evaluation.profiling import trtexec
from trt_facefusion.evaluation.profiling.bench import Bench
from trt_facefusion.evaluation.profiling.cpu_bench import CpuBench, OpaqueBench
from trt_facefusion.evaluation.profiling.fit_factors import MeasuredEngine, choose_row, fit_factors
from trt_facefusion.evaluation.profiling.gpu_bench import GpuBench
from trt_facefusion.evaluation.profiling.measure import Counts, time_interleaved
from trt_facefusion.evaluation.profiling.result import Profile
from trt_facefusion.evaluation.profiling.statistics import Comparison, compare
from trt_facefusion.evaluation.profiling.trtexec import TrtexecTimes
from trt_facefusion.evaluation.profiling.workload import PhotoSettings, make_workload
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.types import Note, Progress, drop_note, silent


@dataclass(frozen=True)
class ProfileSettings:
    """Everything that ``trt-ff profile`` was told.

    ``batch`` None is the usual one of the engine; ``batches`` and ``flights`` are the points of the sweeps (None: those
    that suit the engine); ``trtexec_path`` None looks on PATH. With ``fit`` the factors of this GPU are fitted to the
    measured layers and kept in ``cache``; ``gpu`` names the row of the table where the driver's name has none.
    """

    engine: Path
    against: Path | None = None
    faces: Path | None = None
    aligned: bool = False
    embedder: Path | None = None
    converter: Path | None = None
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
    fit: bool = False
    gpu: str | None = None
    cache: Path = Path("calib_cache")


@dataclass(frozen=True)
class ProfileResult:
    """The profile of one engine, and what it was compared with."""

    one: Profile
    other: Profile | None = None
    comparison: Comparison | None = None
    trtexec: TrtexecTimes | None = None
    fitted: FittedFactors | None = None
    fitted_file: Path | None = None

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
        if self.fitted is not None:
            document["fitted"] = {**asdict(self.fitted), "file": str(self.fitted_file)}
        return document


def profile(settings: ProfileSettings, progress: Progress = silent, note: Note = drop_note) -> ProfileResult:
    """Measure one engine, or two in alternating order.

    Raises:
        TrtFaceFusionError: nothing to run, no GPU for an engine that needs one, inputs that do not fit, no trtexec.
    """
    models = [
        open_model(path, stand_in=settings.stand_in) for path in (settings.engine, settings.against) if path is not None
    ]
    program = _find_trtexec(settings, models[0])
    row = _choose_row(settings, models) if settings.fit else None
    with ExitStack() as stack:
        benches = [_open_bench(stack, settings, model, note) for model in models]
        calls = [lambda bench=bench: bench.runner.infer(bench.inputs.next()) for bench in benches]
        times = time_interleaved(calls, settings.counts.warmups, settings.counts.rounds, progress=progress)
        profiles = [bench.profile(tuple(own), progress) for bench, own in zip(benches, times, strict=True)]
        shapes = {name: array.shape for name, array in benches[0].inputs.next().items()}
    if any(one.stand_in for one in profiles):
        note("warning: this is NOT the engine: its typed ONNX was profiled on the CPU, which says nothing of a GPU")
    comparison = compare(times[0], times[1]) if len(times) > 1 else None
    beside = None if program is None else _run_trtexec(program, settings, models[0], shapes, progress)
    profiled = ProfileResult(profiles[0], profiles[1] if len(profiles) > 1 else None, comparison, beside)
    if row is None:
        return profiled
    fitted, file = fit_factors(_list_measured(models, profiles), *row, settings.cache)
    return replace(profiled, fitted=fitted, fitted_file=file)


def _run_trtexec(
    program: Path,
    settings: ProfileSettings,
    model: OpenedModel,
    shapes: dict[str, tuple[int, ...]],
    progress: Progress,
) -> TrtexecTimes:
    progress("trtexec", 0, 0)
    dynamic = _pick_dynamic_shapes(model, shapes)
    return trtexec.run(program, model.engine, dynamic, settings.counts.rounds, settings.device)


def _choose_row(settings: ProfileSettings, models: Sequence[OpenedModel]) -> tuple[GpuModel, str]:
    """The row of this GPU and what the driver calls it, before anything is measured."""
    for model in models:
        if model.manifest is None or not model.needs_gpu or settings.stand_in or not model.manifest.kernels:
            raise BadInputError(
                f"nothing can be fitted to {model.label}: it is no stored engine for a GPU whose kernels are known",
                "leave --fit out, or name such an engine",
            )
    device = ask_machine(settings.device, []).device or ""
    return choose_row(settings.gpu, device), device


def _list_measured(models: Sequence[OpenedModel], profiles: Sequence[Profile]) -> list[MeasuredEngine]:
    pairs = zip(models, profiles, strict=True)
    return [MeasuredEngine(model.manifest, one) for model, one in pairs if model.manifest is not None]


def _open_bench(stack: ExitStack, settings: ProfileSettings, model: OpenedModel, note: Note) -> Bench:
    on_gpu = model.needs_gpu and not settings.stand_in
    kind = choose_bench(model, stand_in=settings.stand_in)
    try:
        bench = kind(model, settings.counts, settings.in_flight, settings.flights, settings.threads, settings.device)
        stack.enter_context(bench)
    except BackendUnavailableError as error:
        if not on_gpu:
            raise
        raise BackendUnavailableError(
            f"{model.label} runs on a GPU only. {error.message}",
            f"{error.remedy.rstrip('.')}; --stand-in profiles its typed ONNX on this CPU (which is not the engine).",
        ) from error
    photos = PhotoSettings(settings.faces, settings.aligned, settings.embedder, settings.converter)
    bench.feed(make_workload(model, bench.runner.inputs, photos, note), settings.batch, settings.batches)
    return bench


def choose_bench(model: OpenedModel, *, stand_in: bool) -> type[Bench]:
    """How an engine is measured; with ``stand_in`` its typed ONNX is, on the CPU.

    Raises:
        BadInputError: the engine runs in a simulator here.
    """
    backend = model.backend
    if backend is not None and backend.capabilities.judged is Judged.SIMULATED and not stand_in:
        raise BadInputError(
            f"{model.label} runs in a simulator here, whose time says nothing of the processor that it is for",
            "measure it on the device; --stand-in profiles its typed ONNX on this CPU (which is not the engine)",
        )
    if stand_in or backend is None or backend.capabilities.judged is Judged.TYPED_ONNX:
        return CpuBench
    return GpuBench if backend.capabilities.needs_gpu else OpaqueBench


def _find_trtexec(settings: ProfileSettings, model: OpenedModel) -> Path | None:
    if not settings.trtexec:
        return None
    if not model.needs_gpu or settings.stand_in:
        raise BadInputError(
            f"trtexec cannot run {model.label} beside it: only TensorRT engines on a GPU", "leave --trtexec out"
        )
    return trtexec.find(settings.trtexec_path)


def _pick_dynamic_shapes(model: OpenedModel, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes to name for trtexec: of a static engine none."""
    ranges = model.manifest.shapes if model.manifest is not None else {}
    return {name: shape for name, shape in shapes.items() if name in ranges and len(set(ranges[name])) > 1}
