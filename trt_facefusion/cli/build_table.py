"""The table that `trt-ff build` ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from trt_facefusion.build.result import BuildResult
from trt_facefusion.build.speed import PredictedSpeed
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.cli import console
from trt_facefusion.cli.figures import format_figure, label_with_faces, list_judges
from trt_facefusion.engine.store.manifest import Manifest, StoredAccuracy
from trt_facefusion.evaluation.accuracy.registry import list_shown_figures
from trt_facefusion.types import Precision


def show_engines(built: BuildResult) -> None:
    """The closing table: a column for each engine, so that it fits a narrow terminal."""
    title = f"{built.model} on {built.engines[0].manifest.target}, {built.seconds:.1f} s"
    table = Table(title=console.plain(title), title_justify="left", header_style="bold")
    table.add_column("")
    for engine in built.engines:
        table.add_column(_name_precision(engine), justify="right")
    measured = [engine.manifest.judged.figures for engine in built.engines]
    columns = [_describe_engine(engine, built.speed, measured) for engine in built.engines]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns), end_section=name in _SECTION_ENDS)
    console.show(table)
    for engine in built.engines:
        console.line(f"{_name_precision(engine)}: {engine.folder}")
        for step in engine.fallback:
            console.line(f"  fell back {step.from_} -> {step.to}: {step.reason}")
    for text in dict.fromkeys(text for engine in built.engines for text in list_judges(engine.manifest.judged)):
        console.line(text)
    if built.speed is not None and built.speed.verdict is not None:
        console.line(console.styled(built.speed.verdict, "yellow"))


def _name_precision(engine: EngineResult) -> str:
    name = engine.manifest.precision
    return name if engine.as_asked else f"{engine.requested.value} -> {name}"


_FIRST_FIGURES = ("psnr_db", "ssim_drop", "ssim_drop_worst")
_SECTION_ENDS = {"weights", "int8 kernels, real of planned", "prepared network, SSIM drop"}


def _format_prepared(judged: StoredAccuracy) -> str:
    """What preparing the network changed; engines of earlier versions do not know."""
    return "-" if judged.prepared is None else f"{judged.prepared.ssim_drop:.3%}"


def _describe_speed(m: Manifest, speed: PredictedSpeed | None) -> dict[str, str | Text]:
    """The predicted time, where there is one."""
    if speed is None:
        return {}
    time = speed.times.get(Precision(m.precision))
    return {f"predicted on {speed.gpu.name}, not measured": "-" if time is None else f"{time.total_ms:.3f} ms"}


def _describe_engine(
    engine: EngineResult, speed: PredictedSpeed | None, measured: Sequence[Mapping[str, float | None]]
) -> dict[str, str | Text]:
    """What the table says of one engine: row -> text; ``measured`` are the figures of all engines."""
    m, judged = engine.manifest, engine.manifest.judged
    kernels = m.int8_kernels
    return {
        "engine": console.size(m.engine_bytes),
        "weights": console.size(m.weights_bytes),
        **{f"MACs in {p.value}": f"{m.macs_share[p.value]:.1%}" for p in Precision},
        "int8 kernels, real of planned": f"{kernels.real}/{kernels.planned}" if kernels.planned else "-",
        **_describe_speed(m, speed),
        "faces judged": str(judged.faces),
        **{
            label_with_faces(f): format_figure(f, judged.figures.get(f.key))
            for f in list_shown_figures(_FIRST_FIGURES, *measured)
        },
        "prepared network, SSIM drop": _format_prepared(judged),
        "build, s": "up to date" if engine.up_to_date else f"{m.seconds:.1f}",
        "verdict": console.styled("passed", "green") if engine.as_asked else console.styled("fell back", "yellow"),
    }
