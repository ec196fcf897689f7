"""`trt-ff calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.build.calibrate_only import CalibrationResult, calibrate
from trt_facefusion.build.effort import MINUTES, level_named
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.cli import console, options
from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.calibration.threshold_choice import ThresholdChoice

_RESULT = "Calibration"


def command(
    calib: options.Calib,
    onnx: options.Onnx = None,
    checkpoint: options.Checkpoint = None,
    model: options.Factory = None,
    weights_key: options.WeightsKey = None,
    preset: options.PresetName = None,
    inputs: options.Inputs = None,
    picture: options.Picture = None,
    embedder: options.EmbedderFile = None,
    noise: options.Noise = None,
    evaluation: options.Evaluation = None,
    every_face: Annotated[
        bool,
        typer.Option(
            "--all-faces",
            help="Hold nobody out. A build on the same folder would then judge on faces that its ranges have seen.",
            rich_help_panel=options.FACES,
        ),
    ] = False,
    aligned: options.Aligned = False,
    max_calib: options.MaxCalib = 300,
    rule: options.Rule = "auto",
    corrections: options.Corrections = "auto",
    effort: options.Effort = "auto",
    minutes: options.Minutes = MINUTES,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            help="FILE.cache to write, and FILE.json beside it (else a file in --cache, where builds find it).",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    cache: options.Cache = Path("calib_cache"),
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Run the pass again even if up to date.", rich_help_panel=_RESULT)
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an output of another model.", rich_help_panel=_RESULT)
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Calibrate a model on faces and write its table, without building anything.

    One pass over the faces gives histograms, from which every rule is computed. `auto` takes the
    rule whose INT8 pictures come nearest to FP32's; single tensors may get another where that pays.
    An interrupted pass continues where it stopped. `trt-ff build --calib-cache FILE` takes the table.
    """
    options.check_numbers(rule, corrections, {"--max-calib": max_calib})
    level_named(effort)
    if every_face and evaluation is not None:
        raise BadInputError("both --all-faces and --eval are given", "with --eval every face of --calib is used anyway")
    if output is not None and output.suffix != ".cache":
        raise BadInputError(f"the output {output} is not FILE.cache", "name a file that ends with .cache")
    source = options.source_of(onnx, checkpoint, model, weights_key)
    settings = BuildSettings(
        source=source,
        preset=options.preset_of(source, preset, inputs or [], picture),
        precisions=(),
        calib=calib,
        eval=evaluation,
        aligned=aligned,
        embedder=embedder,
        noise=noise,
        backend="onnxruntime",
        rule=rule,
        corrections=corrections,
        effort=effort,
        minutes=minutes,
        cache=cache,
        max_calib=max_calib,
        recalibrate=recalibrate,
        force=force,
        table_file=output,
        hold_out=not every_face,
    )
    with console.progress_bar() as (progress, note):
        result = calibrate(settings, progress, note)
    if as_json:
        console.print_json(result.as_dict())
    else:
        show(result)


def show(result: CalibrationResult) -> None:
    """Where the table is, what was compared, and which tensors have a rule of their own."""
    held_out = f", {result.held_out} more are left to judge builds on" if result.held_out else ""
    _line(f"{result.path}: {len(result.calibration.table)} tensors from {result.faces} faces{held_out}")
    console.show(compared(result.choice))
    show_tensors(result.choice)


def compared(choice: ThresholdChoice) -> Table:
    """Every whole table that was compared, the best first."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rule for all tensors")
    table.add_column(f"SSIM drop on {choice.faces} faces", justify="right")
    for label, drop in sorted(choice.tried.items(), key=lambda item: item[1]):
        table.add_row(console.plain(label), f"{drop:.3%}")
    return table


def show_tensors(choice: ThresholdChoice) -> None:
    """The tensors with a rule of their own, and why."""
    if choice.trials:
        own = f"{len(choice.tensors)} tensors by a rule of their own" if choice.tensors else "no tensor fared better"
        _line(f"{own}, of {choice.trials} trials; SSIM drop {choice.ssim_drop:.3%}")
    for name, chosen in choice.tensors.items():
        _line(f"  {name}: {chosen.reason}")


def _line(text: str) -> None:
    console.line(text)
