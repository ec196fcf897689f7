"""`trt-ff plan`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.build.options import (
    AccuracyOptions,
    CacheOptions,
    EffortOptions,
    EngineOptions,
    FaceOptions,
    RangeOptions,
)
from trt_facefusion.build.plan_only import PlanResult, make_plan
from trt_facefusion.build.run_record import SEARCH
from trt_facefusion.cli import console, options
from trt_facefusion.cli.figures import written
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.report import charts
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.types import Precision

CHART = "search.svg"
_SHOWN = 3
_COLUMNS = ("ssim_drop", "ssim_drop_worst")


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


@options.with_limits
@expand_groups
def command(
    faces: FaceOptions,
    model: options.ModelOptions,
    engine: EngineOptions,
    planning: PlanSearchOptions,
    store: PlanOutputOptions,
    as_json: options.AsJson = False,
) -> None:
    """Search the INT8 plan: the most arithmetic in INT8 that the accuracy budget allows.

    Every layer that can be INT8 is measured on calibration faces, by what the picture loses: alone,
    and against all others. Plans on the way are measured whole, and the chosen one is verified on
    faces that calibration never saw. `trt-ff build` does the same; `--plan FILE` takes the result.
    """
    if not store.force:
        _require_unedited(store.output)
    limits = {"--max-calib": faces.max_calib, "--max-eval": faces.max_eval, "--search-faces": planning.search_faces}
    options.check_options(planning, planning, limits)
    settings = options.read_settings(model, faces, engine, planning, store, precisions=(Precision.INT8,))
    with console.progress_bar() as (progress, note):
        result = make_plan(settings, progress, note)
    paths = _write(result, store.output)
    if as_json:
        console.print_json({**result.as_dict(), "path": str(store.output)})
    else:
        show(result)
        _line(f"written: {', '.join(map(str, paths))}")


@dataclass(frozen=True)
class _LeftPlan:
    """Of the search's document, which plan stands beside it."""

    plan_sha256: str


def _write(result: PlanResult, output: Path) -> list[Path]:
    search = result.search or {}
    chart = charts.make_standalone(charts.draw_pareto(search.get("points", [])))
    text = result.plan.dumps()
    search = {**search, **asdict(_LeftPlan(hashlib.sha256(text.encode()).hexdigest()))}
    files = {
        output: text,
        output.with_name(SEARCH): json.dumps(search, indent=1) + "\n",
        output.with_name(CHART): chart,
    }
    for path, text in files.items():
        write_atomic(path, text.encode())
    return list(files)


def _require_unedited(output: Path) -> None:
    """Raise `BadInputError` if a file stands at ``output`` that this command did not leave there as it is."""
    if not output.exists():
        return
    with suppress(OSError, DocumentError):
        left = decode(_LeftPlan, parse_json(read_bytes(output.with_name(SEARCH))), "search", lenient=True)
        if left.plan_sha256 == hashlib.sha256(read_bytes(output)).hexdigest():
            return
    raise BadInputError(
        f"{output} exists, and is not as `trt-ff plan` left it: it may have been edited",
        "name another file with --output, or replace it with --force",
    )


def show(result: PlanResult) -> None:
    """The front, and what was chosen."""
    if result.search:
        console.show(tabulate_front(result.search))
        for name, why in result.search["excluded"].items():
            _line(f"no candidate: {name}: {why}")
    accuracy, shares = result.accuracy, result.plan.macs_share()
    _line(
        f"chosen: {len(result.plan.names(Precision.INT8))} layers with {shares['int8']:.1%} of the MACs in INT8; "
        f"on {accuracy.faces} verification faces the SSIM drop is {accuracy.ssim_drop:.3%}, "
        f"{accuracy['ssim_drop_worst']:.3%} on the worst"
        + (f", after {result.repairs} rounds of repair" if result.repairs else "")
    )


def tabulate_front(search: Mapping[str, Any]) -> Table:
    """The Pareto front: each row a measured plan, each with a little less in INT8."""
    title = (
        f"{search['plans']} plans measured on {search['faces']} calibration faces, "
        f"{search['passes']} inferences in {search['seconds']:.0f} s"
    )
    points = search["points"]
    limited = {limit.short_name: figure for figure, limit in registry.limits() if limit.short_name not in _COLUMNS}
    limited = {name: figure for name, figure in limited.items() if all(name in point for point in points)}
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "MACs in INT8", "SSIM drop", "worst face", *limited):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layers raised", overflow="fold")
    for point in points:
        raised = point["raised"]
        names = ", ".join(raised[:_SHOWN]) + (f" and {len(raised) - _SHOWN} more" if len(raised) > _SHOWN else "")
        table.add_row(
            console.styled(">", "green") if point["chosen"] else "",
            f"{point['int8_macs_share']:.1%}",
            f"{point['ssim_drop']:.3%}",
            f"{point['ssim_drop_worst']:.3%}",
            *(written(figure, point[name]) for name, figure in limited.items()),
            console.plain(names or "none"),
            style="bold" if point["chosen"] else "",
        )
    return table


def _line(text: str) -> None:
    console.line(text)
