"""`trt-ff profile`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table
from rich.text import Text

from trt_facefusion.cli import console
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.profiling.layers import share_by_precision
from trt_facefusion.evaluation.profiling.machine import read_versions
from trt_facefusion.evaluation.profiling.measure import Counts, SweepPoint
from trt_facefusion.evaluation.profiling.result import Profile
from trt_facefusion.evaluation.profiling.run import ProfileResult, ProfileSettings
from trt_facefusion.evaluation.profiling.run import profile as run_profile
from trt_facefusion.storage.files import write_atomic

_MEASURE, _INPUT, _RUN, _OUT = "Measuring", "Inputs", "Where it runs", "Output"
_SHADES = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"
_BAR = 16
_OUTSIDE = "outside of the plan"
_STYLES = {"int8": "green", "fp16": "blue", "fp32": "magenta"}


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured, and how often."""

    against: Annotated[
        Optional[Path], typer.Option(help="Another one, measured in turn with the first.", rich_help_panel=_MEASURE)
    ] = None
    warmups: Annotated[int, typer.Option(min=0, help="Calls before anything counts.", rich_help_panel=_MEASURE)] = (
        Counts.warmups
    )
    rounds: Annotated[
        int,
        typer.Option(
            min=1, help="Calls that count; fewer than 100 easily show gaps that are none.", rich_help_panel=_MEASURE
        ),
    ] = Counts.rounds
    batch: Annotated[
        Optional[int], typer.Option(min=1, help="Samples per call (else the engine's usual).", rich_help_panel=_MEASURE)
    ] = None
    batches: Annotated[
        Optional[str], typer.Option(help="Batch sizes to sweep, like 1,2,4 (else the range).", rich_help_panel=_MEASURE)
    ] = None
    flights: Annotated[
        str, typer.Option("--in-flight", help="Inferences at once to sweep.", rich_help_panel=_MEASURE)
    ] = "1,2,4"
    use_trtexec: Annotated[
        bool, typer.Option("--trtexec", help="Run NVIDIA's trtexec beside it.", rich_help_panel=_MEASURE)
    ] = False
    trtexec_path: Annotated[
        Optional[Path], typer.Option(help="Where trtexec is (else on PATH).", rich_help_panel=_MEASURE)
    ] = None
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Fit the model of time (`trt-ff estimate`) to the measured layers, and keep its factors for this GPU.",
            rich_help_panel=_MEASURE,
        ),
    ] = False
    gpu: Annotated[
        Optional[str],
        typer.Option(
            help="The GPU of the model's table that this one is, where its name is not there.", rich_help_panel=_MEASURE
        ),
    ] = None
    cache: Annotated[Path, typer.Option(help="Where fitted factors are kept.", rich_help_panel=_MEASURE)] = Path(
        "calib_cache"
    )


@dataclass(frozen=True, kw_only=True)
class ProfileInputOptions:
    """What the engine is fed."""

    faces: Annotated[
        Optional[Path],
        typer.Option(help="Folder of photos to feed (else random values of the right range).", rich_help_panel=_INPUT),
    ] = None
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The photos are aligned crops already.", rich_help_panel=_INPUT)
    ] = False
    embedder: Annotated[
        Optional[Path],
        typer.Option(help="ArcFace ONNX, where the generator takes its vectors.", rich_help_panel=_INPUT),
    ] = None
    converter: Annotated[
        Optional[Path],
        typer.Option(help="ONNX that converts the embeddings first, as for `build`.", rich_help_panel=_INPUT),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProfileRunOptions:
    """Where it runs."""

    device: Annotated[int, typer.Option(min=0, help="Number of the GPU.", rich_help_panel=_RUN)] = 0
    threads: Annotated[
        Optional[int], typer.Option(min=1, help="CPU threads, of engines that run on the CPU.", rich_help_panel=_RUN)
    ] = None
    stand_in: Annotated[
        bool,
        typer.Option(
            "--stand-in",
            help="No GPU: profile an engine's typed ONNX on the CPU. Not the engine!",
            rich_help_panel=_RUN,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ProfileOutputOptions:
    """What is shown and written."""

    plot: Annotated[
        Optional[Path], typer.Option(help="Write a plot to this .svg or .html file.", rich_help_panel=_OUT)
    ] = None
    top: Annotated[int, typer.Option(min=0, help="Layers to show.", rich_help_panel=_OUT)] = 15


@expand_groups
def command(
    engine: Annotated[Path, typer.Argument(help="An engine's folder, a file in it, or an ONNX file.")],
    measuring: MeasureOptions,
    inputs: ProfileInputOptions,
    execution: ProfileRunOptions,
    output: ProfileOutputOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=_OUT)
    ] = False,
) -> None:
    """Measure how fast an engine is and where its time goes; with --against, two in alternating order.

    Gives latency percentiles, throughput, upload/compute/download, the host's share, memory, sweeps over batch sizes
    and inferences in flight, and the time of every layer with its precision.
    """
    plot = output.plot
    if plot is not None and plot.suffix not in {".svg", ".html"}:
        raise BadInputError(f"--plot {plot} is no .svg and no .html file", "name a file with one of these endings")
    settings = ProfileSettings(
        engine=engine,
        against=measuring.against,
        faces=inputs.faces,
        aligned=inputs.aligned,
        embedder=inputs.embedder,
        converter=inputs.converter,
        batch=measuring.batch,
        batches=None if measuring.batches is None else _parse_numbers("--batches", measuring.batches),
        flights=_parse_numbers("--in-flight", measuring.flights),
        counts=Counts(measuring.warmups, measuring.rounds),
        threads=execution.threads,
        device=execution.device,
        stand_in=execution.stand_in,
        trtexec=measuring.use_trtexec or measuring.trtexec_path is not None,
        trtexec_path=measuring.trtexec_path,
        fit=measuring.fit,
        gpu=measuring.gpu,
        cache=measuring.cache,
    )
    with console.progress_bar() as (progress, note):
        profiled = run_profile(settings, progress, note)
    if as_json:
        console.print_json(profiled.as_dict(read_versions()))
    else:
        show(profiled, output.top)
    if plot is not None:
        _write_plot(profiled, plot)


def _parse_numbers(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise BadInputError(f"{option} {text!r} is no list of numbers from 1 on", f"write for example {option} 1,2,4")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _write_plot(profiled: ProfileResult, path: Path) -> None:
    from trt_facefusion.report import profile_chart

    text = profile_chart.render_html(profiled) if path.suffix == ".html" else profile_chart.render_svg(profiled)
    write_atomic(path, text.encode(), option="--plot")
    console.err.print(f"plot: {path}", soft_wrap=True)


def show(profiled: ProfileResult, top: int) -> None:
    """The tables: figures, sweeps, comparison, and the slowest layers."""
    profiles = [profiled.one] + ([profiled.other] if profiled.other is not None else [])
    table = Table(title_justify="left", header_style="bold", title=_format_title(profiled.one))
    table.add_column("")
    for number, profile in enumerate(profiles):
        name = console.joined(profile.label, *([console.styled(" STAND-IN", "red")] if profile.stand_in else []))
        table.add_column(name, justify="right", overflow="fold", ratio=1 if number else None)
    columns = [_list_figures(profile) for profile in profiles]
    for row in columns[0]:
        table.add_row(row, *(column.get(row, "-") for column in columns), end_section=row in _ENDS)
    console.show(table)
    _show_comparison(profiled)
    _show_trtexec(profiled)
    _show_fitted(profiled)
    for profile in profiles:
        _show_layers(profile, top)


_ENDS = {"latency max", "faces per second", "download", "memory"}


def _format_title(profile: Profile) -> Text:
    return console.lines(f"{len(profile.times_ms)} calls, batch {profile.batch}, {profile.inputs}", profile.device)


def _list_figures(profile: Profile) -> dict[str, str]:
    latency = profile.latency.as_dict()
    rows = {f"latency {name}": f"{time_ms:.3f} ms" for name, time_ms in latency.items()}
    rows["faces per second"] = f"{profile.throughput_per_s:.1f} ({profile.in_flight} in flight)"
    if profile.split is not None:
        rows["upload"] = f"{profile.split.upload_ms:.3f} ms"
        rows["compute"] = f"{profile.split.compute_ms:.3f} ms"
        rows["download"] = f"{profile.split.download_ms:.3f} ms"
    if profile.host_overhead_us is not None:
        rows["host, per call"] = f"{profile.host_overhead_us:.0f} \u00b5s"
    rows["memory"] = console.size(profile.memory_bytes)
    rows |= {f"batch of {point.at}": _format_point(point) for point in profile.batches}
    rows |= {f"{point.at} in flight": _format_point(point) for point in profile.flights}
    return rows


def _format_point(point: SweepPoint) -> str:
    latency = "" if point.latency_ms is None else f"{point.latency_ms:.3f} ms, "
    return f"{latency}{point.throughput_per_s:.1f} faces/s"


def _show_comparison(profiled: ProfileResult) -> None:
    comparison = profiled.comparison
    if comparison is None or profiled.other is None:
        return
    verdict = "" if comparison.differ else " No difference that is not chance."
    text = console.joined(
        f"{profiled.other.label} takes ",
        console.styled(f"{comparison.ratio:.3f}", "bold"),
        f" times as long as {profiled.one.label} "
        f"(95 % interval {comparison.low:.3f} to {comparison.high:.3f}, {comparison.rounds} rounds in alternating "
        "order).",
        console.styled(verdict, "yellow"),
    )
    console.out.print(text)


def _show_trtexec(profiled: ProfileResult) -> None:
    ratio, times = profiled.trtexec_ratio, profiled.trtexec
    if ratio is None or times is None:
        return
    text = console.joined(
        f"trtexec, {times.calls} calls: p50 {times.latency.p50:.3f} ms, of which compute {times.compute_ms:.3f} ms. "
        "This runtime takes ",
        console.styled(f"{ratio['latency']:.3f}", "bold"),
        f" times as long (on the GPU alone {ratio['device']:.3f}, compute {ratio['compute']:.3f}).",
    )
    console.out.print(text)


def _show_fitted(profiled: ProfileResult) -> None:
    """What was fitted, and how far predictions were off before and after."""
    fitted = profiled.fitted
    if fitted is None:
        return
    console.line(
        f"fitted to {fitted.layers} layers of {fitted.device} (row {fitted.gpu}), shares of what is published: "
        + ", ".join(f"{name} {factor:.2f}" for name, factor in fitted.factors.by_name.items())
    )
    console.line(
        f"predictions were off by {fitted.deviation_before:.0%} (median of the layers; all together "
        f"{fitted.total_before:.2f} of the measured time), now by {fitted.deviation_after:.0%} "
        f"({fitted.total_after:.2f}); kept in {profiled.fitted_file}"
    )


def _show_layers(profile: Profile, top: int) -> None:
    if not profile.layers or not top:
        return
    shares = share_by_precision(profile.layers)
    share_texts = ", ".join(f"{_OUTSIDE if name == '-' else name} {share:.0%}" for name, share in shares.items())
    about = f" ({share_texts})" if set(shares) != {"-"} else ""  # an ONNX file has no plan
    shown = profile.layers[:top]
    title = f"{profile.label}: the slowest {len(shown)} of {len(profile.layers)} layers{about}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold")
    for name in ("ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR)
    for name in ("plan", "data types"):
        table.add_column(name, overflow="fold")
    for layer in shown:
        plan = layer.precision or "-"
        style = _STYLES.get(plan, "")
        bar = _draw_bar(layer.time_ms / (shown[0].time_ms or 1))
        row = (f"{layer.time_ms:.3f}", f"{layer.share:.1%}", bar, plan, layer.dtypes or "-")
        table.add_row(console.plain(f"{layer.name} ({layer.type})" if layer.type else layer.name), *row, style=style)
    console.show(table)


def _draw_bar(share: float) -> str:
    """A bar of at most ``_BAR`` characters, in eighths."""
    eighths = round(share * _BAR * 8)
    return "\u2588" * (eighths // 8) + (_SHADES[eighths % 8] if eighths % 8 else "")
