"""`trt-ff compare`: every engine of a model side by side, or a torch module in every precision."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.build.options import (
    FACES,
    AccuracyOptions,
    CacheOptions,
    CropOptions,
    EffortOptions,
    EngineOptions,
    RangeOptions,
)
from trt_facefusion.cli import console, options
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.cli.limit_options import with_limits
from trt_facefusion.cli.lineup_table import show_lineup
from trt_facefusion.cli.module_table import show_module
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.evaluation.profiling.measure import Counts
from trt_facefusion.lineup.entry import Lineup
from trt_facefusion.lineup.gather import ORDER, LineupSettings, line_up
from trt_facefusion.lineup.measuring import TimingSettings
from trt_facefusion.lineup.module_inputs import make_samples, parse_module_inputs
from trt_facefusion.lineup.module_run import ModuleSettings, line_up_module
from trt_facefusion.model.generators.factory import build_from_factory
from trt_facefusion.report.lineup_markdown import render_markdown
from trt_facefusion.report.lineup_page import save_lineup
from trt_facefusion.report.module_markdown import render_module_markdown
from trt_facefusion.storage.files import write_atomic

_COMPARE = "Comparison"
_SHOWN_FACES = 6


@dataclass(frozen=True, kw_only=True)
class CompareFaceOptions(CropOptions):
    """Faces to calibrate on and to judge on; a torch module takes none."""

    calib: Annotated[Optional[Path], typer.Option(help="Folder of photos to calibrate on.", rich_help_panel=FACES)] = (
        None
    )
    eval: Annotated[
        Optional[Path],
        typer.Option(
            "--eval", help="Folder of photos to judge on (else some of --calib are held out).", rich_help_panel=FACES
        ),
    ] = None
    max_eval: Annotated[
        int, typer.Option(min=0, help="Judge on this many faces at most (0: all).", rich_help_panel=FACES)
    ] = 128


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is compared, and how it is timed."""

    backends: Annotated[
        Optional[str],
        typer.Option(help="Backends to build with, like openvino,tensorrt-rtx (else all).", rich_help_panel=_COMPARE),
    ] = None
    engine: Annotated[
        Optional[list[Path]],
        typer.Option("--engine", help="A stored engine to compare as it is; repeat it.", rich_help_panel=_COMPARE),
    ] = None
    threads: Annotated[
        Optional[int], typer.Option(min=1, help="CPU threads (else each library's own).", rich_help_panel=_COMPARE)
    ] = None
    warmups: Annotated[int, typer.Option(min=0, help="Calls before any counts.", rich_help_panel=_COMPARE)] = 10
    rounds: Annotated[
        int, typer.Option(min=1, help="Calls of each engine that count, in turns.", rich_help_panel=_COMPARE)
    ] = 100
    samples: Annotated[
        Optional[Path],
        typer.Option(
            help="A torch module's inputs, .npz with [N, *SHAPE] by name: half calibrate, half judge (else drawn).",
            rich_help_panel=_COMPARE,
        ),
    ] = None
    repeats: Annotated[
        int,
        typer.Option(
            min=1, max=100, help="Series of rounds of a torch module: how far times spread.", rich_help_panel=_COMPARE
        ),
    ] = 3


@dataclass(frozen=True, kw_only=True)
class CompareOutputOptions:
    """Where everything goes."""

    output: Annotated[Path, typer.Option(help="Where engines are stored.")] = Path("engines")
    cache: CacheOptions
    markdown: Annotated[Optional[Path], typer.Option(help="Write the table as Markdown, too.")] = None
    reports: Annotated[Path, typer.Option(help="Where the page is stored; it shows faces.")] = Path("reports")
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no page.")] = False


@dataclass(frozen=True, kw_only=True)
class CompareAccuracyOptions(EffortOptions, AccuracyOptions, RangeOptions):
    """What INT8 may cost, and what is tried for it."""


@with_limits
@expand_groups
def command(
    faces: CompareFaceOptions,
    model: options.ModelOptions,
    engine: EngineOptions,
    compare: CompareOptions,
    accuracy: CompareAccuracyOptions,
    store: CompareOutputOptions,
    as_json: options.AsJson = False,
) -> None:
    """Compare FP32, FP16 and INT8 on every backend: size, memory, time, accuracy, effort, side by side.

    Engines are built as `trt-ff build` does, or taken from the store. Times are measured in turns where an engine runs
    here, and predicted, and marked so, where it does not. What cannot be built is a row with its reason. Published
    figures stand beside it for orientation.

    --model module:factory without --checkpoint compares any torch module, whose inputs are --input NAME:DTYPE:SHAPE,
    like x:float32:1000x768: FP32, FP16, BF16 and INT8 in torch, and what takes its ONNX.
    """
    if store.markdown is not None and store.markdown.is_dir():
        raise BadInputError(f"--markdown {store.markdown} is a folder", "name a file")
    if model.model is not None and model.checkpoint is None and model.onnx is None:
        if faces.calib is not None:
            raise BadInputError(
                "--model alone is any torch module, which takes no faces", "add --checkpoint, or leave --calib out"
            )
        _compare_module(model, engine, compare, store, as_json=as_json)
        return
    if compare.samples is not None:
        raise BadInputError("--samples are inputs of a torch module", "name one with --model, or leave them out")
    settings = _read_settings(faces, model, engine, compare, accuracy, store)
    with console.progress_bar() as (progress, note):
        lineup = line_up(settings, progress, note)
    page = None if store.no_report else _save_page(lineup, store.reports, console.warn)
    if as_json:
        console.print_json(lineup.as_dict())
    else:
        show_lineup(lineup)
    if store.markdown is not None:
        write_atomic(store.markdown, render_markdown(lineup, _write_command()).encode(), "--markdown")
    if page is not None:
        console.err.print(f"page: {page}", soft_wrap=True)


def _compare_module(
    model: options.ModelOptions,
    engine: EngineOptions,
    compare: CompareOptions,
    store: CompareOutputOptions,
    *,
    as_json: bool,
) -> None:
    inputs = parse_module_inputs(model.inputs or [])
    samples = make_samples(inputs, compare.samples)
    net = build_from_factory(model.model or "")
    counts = Counts(compare.warmups, compare.rounds, compare.rounds)
    settings = ModuleSettings(
        model.model or "", inputs, samples, counts, compare.repeats, compare.threads, engine.target
    )
    with console.progress_bar() as (progress, note):
        lineup = line_up_module(net, settings, progress, note)
    if as_json:
        console.print_json(lineup.as_dict())
    else:
        show_module(lineup)
    if store.markdown is not None:
        write_atomic(store.markdown, render_module_markdown(lineup, _write_command()).encode(), "--markdown")


def _write_command() -> str:
    return shlex.join(["trt-ff", *sys.argv[1:]])


def _read_settings(
    faces: CompareFaceOptions,
    model: options.ModelOptions,
    engine: EngineOptions,
    compare: CompareOptions,
    accuracy: CompareAccuracyOptions,
    store: CompareOutputOptions,
) -> LineupSettings:
    if faces.calib is None:
        raise BadInputError("there are no faces to compare on", "name a folder of photos with --calib")
    if engine.backend != "auto":
        raise BadInputError("--backend names one backend, and several are compared", "name them with --backends")
    options.check_options(accuracy, accuracy, {"--max-calib": faces.max_calib, "--max-eval": faces.max_eval})
    shared = {"calib": faces.calib, "eval": faces.eval, "max_eval": faces.max_eval}
    build = options.read_settings(
        model, faces, engine, accuracy, store, precisions=ORDER, output=store.output, **shared
    )
    return LineupSettings(
        build=build,
        timing=TimingSettings(Counts(compare.warmups, compare.rounds, max(10, compare.rounds // 4)), compare.threads),
        backends=tuple(name.strip() for name in (compare.backends or "").split(",") if name.strip()),
        engines=tuple(compare.engine or ()),
        shown_faces=0 if store.no_report else _SHOWN_FACES,
    )


def _save_page(lineup: Lineup, reports: Path, warn: Callable[[str], None]) -> Path | None:
    try:
        return save_lineup(lineup, reports)
    except StoreError as error:
        warn(f"there is no page: {error.message} {error.remedy.replace('--output', '--reports')}")
        return None
