"""`trt-ff plan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trt_facefusion.build.options import (
    AccuracyOptions,
    CacheOptions,
    EffortOptions,
    EngineOptions,
    FaceOptions,
    RangeOptions,
)
from trt_facefusion.build.plan_only import make_plan
from trt_facefusion.cli import console, options
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.cli.limit_options import with_limits
from trt_facefusion.cli.plan_files import require_unedited, write_files
from trt_facefusion.cli.plan_table import show_plan
from trt_facefusion.types import Precision


@dataclass(frozen=True, kw_only=True)
class PlanSearchOptions(EffortOptions, AccuracyOptions, RangeOptions):
    """All that decides which plan is right, and what is tried for it."""


@dataclass(frozen=True, kw_only=True)
class PlanOutputOptions:
    """Where the plan goes."""

    output: Annotated[
        Path, typer.Option("--output", "-o", help="plan.yaml to write, and search.json and search.svg beside it.")
    ] = Path("plan.yaml")
    cache: CacheOptions
    force: Annotated[bool, typer.Option("--force", help="Replace a plan that was edited.")] = False


@with_limits
@expand_groups
def command(
    faces: FaceOptions,
    model: options.ModelOptions,
    engine: EngineOptions,
    planning: PlanSearchOptions,
    store: PlanOutputOptions,
    as_json: options.AsJson = False,
) -> None:
    """Search the INT8 plan: the fastest that the accuracy budget allows, by predicted time, or with the most
    arithmetic in INT8, or the smallest (--objective).

    Every layer that can be INT8 is measured on calibration faces, by what the picture loses: alone,
    and against all others. Plans on the way are measured whole, and the chosen one is verified on
    faces that calibration never saw. `trt-ff build` does the same; `--plan FILE` takes the result.
    """
    if not store.force:
        require_unedited(store.output)
    limits = {"--max-calib": faces.max_calib, "--max-eval": faces.max_eval, "--search-faces": planning.search_faces}
    options.check_options(planning, planning, limits)
    settings = options.read_settings(model, faces, engine, planning, store, precisions=(Precision.INT8,))
    with console.progress_bar() as (progress, note):
        planned = make_plan(settings, progress, note)
    paths = write_files(planned, store.output)
    if as_json:
        console.print_json({**planned.as_dict(), "path": str(store.output)})
    else:
        show_plan(planned)
        console.line(f"written: {', '.join(map(str, paths))}")
