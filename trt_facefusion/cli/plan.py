"""`trt-ff plan`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.build.effort import MINUTES, level_named
from trt_facefusion.build.plan_only import PlanResult, make_plan
from trt_facefusion.build.report_data import SEARCH
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.cli import console, options
from trt_facefusion.cli.figures import written
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.report import charts
from trt_facefusion.storage.documents import DocumentError, parse_json, read_bytes
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.types import Precision

CHART = "search.svg"
_SHOWN = 3
_WRITTEN = "plan_sha256"
_COLUMNS = ("ssim_drop", "ssim_drop_worst")


@options.with_limits
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
    aligned: options.Aligned = False,
    max_calib: options.MaxCalib = 300,
    max_eval: options.MaxEval = 128,
    target: options.Target = None,
    backend: options.Backend = "auto",
    rule: options.Rule = "auto",
    corrections: options.Corrections = "auto",
    table: options.CalibCache = None,
    *,
    limits: options.NamedLimits,
    repairs: options.Repairs = 3,
    search_faces: options.SearchFaces = 0,
    effort: options.Effort = "auto",
    minutes: options.Minutes = MINUTES,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="plan.yaml to write, and search.json and search.svg beside it.")
    ] = Path("plan.yaml"),
    cache: options.Cache = Path("calib_cache"),
    force: Annotated[bool, typer.Option("--force", help="Replace a plan that was edited.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Search the INT8 plan: the most arithmetic in INT8 that the accuracy budget allows.

    Every layer that can be INT8 is measured on calibration faces, by what the picture loses: alone,
    and against all others. Plans on the way are measured whole, and the chosen one is verified on
    faces that calibration never saw. `trt-ff build` does the same; `--plan FILE` takes the result.
    """
    if not force:
        _require_unedited(output)
    counts = {"--max-calib": max_calib, "--max-eval": max_eval, "--search-faces": search_faces}
    options.check_numbers(rule, corrections, counts)
    level_named(effort)
    source = options.source_of(onnx, checkpoint, model, weights_key)
    settings = BuildSettings(
        source=source,
        preset=options.preset_of(source, preset, inputs or [], picture),
        precisions=(Precision.INT8,),
        calib=calib,
        eval=evaluation,
        aligned=aligned,
        embedder=embedder,
        noise=noise,
        backend=backend,
        target=target,
        rule=rule,
        corrections=corrections,
        cache=cache,
        max_calib=max_calib,
        max_eval=max_eval,
        limits=limits,
        search_faces=search_faces,
        effort=effort,
        minutes=minutes,
        repairs=repairs,
        table=table,
    )
    with console.progress_bar() as (progress, note):
        result = make_plan(settings, progress, note)
    files = _write(result, output)
    if as_json:
        console.print_json({**result.as_dict(), "path": str(output)})
    else:
        show(result)
        _line(f"written: {', '.join(map(str, files))}")


def _write(result: PlanResult, output: Path) -> list[Path]:
    search = result.search or {}
    chart = charts.make_standalone(charts.draw_pareto(search.get("points", [])))
    text = result.plan.dumps()
    search = {**search, _WRITTEN: hashlib.sha256(text.encode()).hexdigest()}
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
        written = parse_json(read_bytes(output.with_name(SEARCH)))
        if isinstance(written, dict) and written.get(_WRITTEN) == hashlib.sha256(read_bytes(output)).hexdigest():
            return
    raise BadInputError(
        f"{output} exists, and is not as `trt-ff plan` left it: it may have been edited",
        "name another file with --output, or replace it with --force",
    )


def show(result: PlanResult) -> None:
    """The front, and what was chosen."""
    if result.search:
        console.show(front(result.search))
        for name, why in result.search["excluded"].items():
            _line(f"no candidate: {name}: {why}")
    accuracy, shares = result.accuracy, result.plan.macs_share()
    _line(
        f"chosen: {len(result.plan.names(Precision.INT8))} layers with {shares['int8']:.1%} of the MACs in INT8; "
        f"on {accuracy.faces} verification faces the SSIM drop is {accuracy.ssim_drop:.3%}, "
        f"{accuracy['ssim_drop_worst']:.3%} on the worst"
        + (f", after {result.repairs} rounds of repair" if result.repairs else "")
    )


def front(search: Mapping[str, Any]) -> Table:
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
