"""`trt-ff calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.build.calibrate_only import CalibrationResult, calibrate
from trt_facefusion.build.options import (
    FACES,
    CacheOptions,
    CalibrationOptions,
    CropOptions,
    EffortOptions,
    PhotoOptions,
)
from trt_facefusion.cli import console, options
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.calibration.threshold_choice import ThresholdChoice

_RESULT = "Calibration"


@dataclass(frozen=True, kw_only=True)
class CalibrationOutputOptions:
    """Where the calibration goes, and what it may replace."""

    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            help="FILE.cache to write, and FILE.json beside it (else a file in --cache, where builds find it).",
            rich_help_panel=_RESULT,
        ),
    ] = None
    cache: CacheOptions
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Run the pass again even if up to date.", rich_help_panel=_RESULT)
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace an output of another model.", rich_help_panel=_RESULT)
    ] = False


@expand_groups
def command(
    *,
    photos: PhotoOptions,
    model: options.ModelOptions,
    every_face: Annotated[
        bool,
        typer.Option(
            "--all-faces",
            help="Hold nobody out. A build on the same folder would then judge on faces that its ranges have seen.",
            rich_help_panel=FACES,
        ),
    ] = False,
    crops: CropOptions,
    calibration: CalibrationOptions,
    effort: EffortOptions,
    store: CalibrationOutputOptions,
    as_json: options.AsJson = False,
) -> None:
    """Calibrate a model on faces and write its table, without building anything.

    One pass over the faces gives histograms, from which every rule is computed. `auto` takes the
    rule whose INT8 pictures come nearest to FP32's; single tensors may get another where that pays.
    An interrupted pass continues where it stopped. `trt-ff build --calib-cache FILE` takes the table.
    """
    options.check_options(calibration, effort, {"--max-calib": crops.max_calib})
    if every_face and photos.eval is not None:
        raise BadInputError("both --all-faces and --eval are given", "with --eval every face of --calib is used anyway")
    output = store.output
    if output is not None and output.suffix != ".cache":
        raise BadInputError(f"the output {output} is not FILE.cache", "name a file that ends with .cache")
    settings = options.read_settings(
        model,
        *(photos, crops, calibration, effort, store),
        precisions=(),
        backend="onnxruntime",
        recalibrate=store.recalibrate,
        force=store.force,
        table_file=output,
        hold_out=not every_face,
    )
    with console.progress_bar() as (progress, note):
        calibrated = calibrate(settings, progress, note)
    if as_json:
        console.print_json(calibrated.as_dict())
    else:
        show(calibrated)


def show(calibrated: CalibrationResult) -> None:
    """Where the table is, what was compared, and which tensors have a rule of their own."""
    held_out = f", {calibrated.held_out} more are left to judge builds on" if calibrated.held_out else ""
    _line(f"{calibrated.path}: {len(calibrated.calibration.table)} tensors from {calibrated.faces} faces{held_out}")
    console.show(tabulate_rules(calibrated.choice))
    show_tensors(calibrated.choice)


def tabulate_rules(choice: ThresholdChoice) -> Table:
    """Every whole table that was compared, the best first."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rule for all tensors")
    table.add_column(f"SSIM drop on {choice.faces} faces", justify="right")
    for label, drop in sorted(choice.tried.items(), key=lambda rule_drop: rule_drop[1]):
        table.add_row(console.plain(label), f"{drop:.3%}")
    return table


def show_tensors(choice: ThresholdChoice) -> None:
    """The tensors with a rule of their own, and why."""
    if choice.trials:
        own = f"{len(choice.tensors)} tensors by a rule of their own" if choice.tensors else "no tensor fared better"
        _line(f"{own}, of {choice.trials} trials; SSIM drop {choice.ssim_drop:.3%}")
    for name, own_rule in choice.tensors.items():
        _line(f"  {name}: {own_rule.reason}")


def _line(text: str) -> None:
    console.line(text)
