"""`trt-ff build`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.build.options import (
    ACCURACY,
    ENGINE,
    AccuracyOptions,
    CacheOptions,
    EffortOptions,
    EngineOptions,
    FaceOptions,
    RangeOptions,
)
from trt_facefusion.build.result import BuildResult
from trt_facefusion.build.run import build
from trt_facefusion.build.settings import PLANNERS
from trt_facefusion.cli import console, options
from trt_facefusion.cli.build_table import show_engines
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.cli.limit_options import with_limits
from trt_facefusion.engine.backends.base import HARDWARE_COMPATIBILITY, BuildOptions
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.report.runs import save_run
from trt_facefusion.types import BatchRange, Precision

GATE_FAILED = 3

_TENSORRT = "TensorRT"


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """What is built."""

    int8: Annotated[bool, typer.Option("--int8", help="Build INT8.", rich_help_panel=ENGINE)] = False
    fp16: Annotated[bool, typer.Option("--fp16", help="Build FP16.", rich_help_panel=ENGINE)] = False
    fp32: Annotated[bool, typer.Option("--fp32", help="Build FP32.", rich_help_panel=ENGINE)] = False


@dataclass(frozen=True, kw_only=True)
class BuildPlanOptions:
    """All that decides how right an engine is, and what is tried for it."""

    plan: Annotated[
        str,
        typer.Option(help="auto (searched by measurement), rules, or an edited plan.yaml.", rich_help_panel=ACCURACY),
    ] = "auto"
    ranges: RangeOptions
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate", help="Calibrate anew; TensorRT 10 then calibrates itself, too.", rich_help_panel=ACCURACY
        ),
    ] = False
    accuracy: AccuracyOptions
    effort: EffortOptions
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if a planned INT8 kernel is missing.", rich_help_panel=ACCURACY)
    ] = False


@dataclass(frozen=True, kw_only=True)
class BuilderOptions:
    """How backends build."""

    batch: Annotated[str, typer.Option(help="MIN:OPT:MAX batch sizes.", rich_help_panel=ENGINE)] = "1:1:1"
    workspace: Annotated[
        Optional[int],
        typer.Option(min=1, help="Scratch memory in MiB (else a quarter of what is free).", rich_help_panel=_TENSORRT),
    ] = None
    optimization_level: Annotated[
        Optional[int],
        typer.Option(min=0, max=5, help="0 (fast build) to 5 (long search).", rich_help_panel=_TENSORRT),
    ] = None
    hardware_compatibility: Annotated[
        str, typer.Option(help="none, ampere_plus or same_compute_capability.", rich_help_panel=_TENSORRT)
    ] = "none"
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible", help="Also load in later minor versions, for some speed.", rich_help_panel=_TENSORRT
        ),
    ] = False
    prefer: Annotated[
        bool,
        typer.Option(
            "--prefer-precisions",
            help="TensorRT 10: give up a layer's precision rather than the build.",
            rich_help_panel=_TENSORRT,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class BuildOutputOptions:
    """Where everything goes."""

    output: Annotated[Path, typer.Option(help="Where engines are stored.")] = Path("engines")
    cache: CacheOptions
    reports: Annotated[
        Path, typer.Option(help="Where reports are stored; they hold pictures of the faces that were judged.")
    ] = Path("reports")
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False
    force: Annotated[bool, typer.Option("--force", help="Build even if up to date.")] = False


@with_limits
@expand_groups
def command(
    faces: FaceOptions,
    precision: PrecisionOptions,
    model: options.ModelOptions,
    engine: EngineOptions,
    planning: BuildPlanOptions,
    builder: BuilderOptions,
    store: BuildOutputOptions,
    as_json: options.AsJson = False,
) -> None:
    """Build engines and prove on faces that they are right.

    Goes through export, calibration, plan, verification and gate; falls back INT8 -> FP16 -> FP32 and says why.
    """
    limits = {"--max-calib": faces.max_calib, "--max-eval": faces.max_eval}
    options.check_options(planning.ranges, planning.effort, limits)
    settings = options.read_settings(
        model,
        *(faces, engine, planning, store),
        precisions=_read_precisions(precision),
        plan=None if planning.plan in PLANNERS else Path(planning.plan),
        planner=planning.plan if planning.plan in PLANNERS else PLANNERS[0],
        recalibrate=planning.recalibrate,
        strict=planning.strict,
        batch=_parse_batch(builder.batch),
        options=_read_backend_options(builder),
        workspace_bytes=None if builder.workspace is None else builder.workspace << 20,
        output=store.output,
        force=store.force,
    )
    with console.progress_bar() as (progress, note):
        built = build(settings, progress, note)
        page = None if store.no_report else _save_report(built, store.reports, note)
    if as_json:
        console.print_json(built.as_dict())
    else:
        show_engines(built)
    if page is not None:
        console.err.print(f"report: {page}", soft_wrap=True)
    if not all(engine.as_asked for engine in built.engines):
        raise typer.Exit(GATE_FAILED)


def _save_report(built: BuildResult, reports: Path, note: Callable[[str], None]) -> Path | None:
    """The page of this build; the engines are stored by now, so a page that cannot be written is only told."""
    if built.record is None:
        return None
    try:
        return save_run(built.record, reports)
    except StoreError as error:
        remedy = error.remedy.replace("--output", "--reports")
        note(f"warning: the engines are stored, but there is no report: {error.message} {remedy}")
        return None


def _read_backend_options(builder: BuilderOptions) -> BuildOptions:
    hardware = builder.hardware_compatibility
    if hardware not in HARDWARE_COMPATIBILITY:
        raise BadInputError(
            f"there is no hardware compatibility {hardware!r}", f"use one of {', '.join(HARDWARE_COMPATIBILITY)}"
        )
    return BuildOptions(None, builder.optimization_level, hardware, builder.version_compatible, obey=not builder.prefer)


def _read_precisions(flags: PrecisionOptions) -> tuple[Precision, ...]:
    precisions = tuple(precision for precision in Precision if getattr(flags, precision.value))
    if not precisions:
        raise BadInputError("no precision is asked for", "add --int8, --fp16 or --fp32 (several are fine)")
    return precisions


def _parse_batch(text: str) -> BatchRange:
    parts = text.split(":")
    if len(parts) in {1, 3} and all(part.isdigit() for part in parts):
        low, usual, high = [int(part) for part in parts] * (1 if len(parts) == 3 else 3)
        if 1 <= low <= usual <= high:
            return BatchRange(low, usual, high)
    raise BadInputError(f"--batch {text!r} is not MIN:OPT:MAX", "write three rising numbers, for example 1:4:8")
