"""`trt-ff cache`: look at calibration caches, compare them, and take those of TensorRT 8 and 10 along."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.build.tuning.named_table import require_int8
from trt_facefusion.build.tuning.observations import read_affines
from trt_facefusion.cli import console, histograms, options
from trt_facefusion.cli.calibrate import show_tensors, tabulate_rules
from trt_facefusion.errors import BadInputError, CalibrationCacheError
from trt_facefusion.model.export import OnnxSource, digest_model
from trt_facefusion.model.graph import GraphView, prepare, read_input_specs
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.quantization.calibration import (
    AssignedRanges,
    Calibration,
    CalibrationTable,
    Histogram,
    TableComparison,
    assign_ranges,
    compare_tables,
    load_description,
)
from trt_facefusion.quantization.calibration.cache import load_named
from trt_facefusion.quantization.correction.channel_affine import equalised_name
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.types import Precision

app = typer.Typer(help="Show, compare and convert calibration caches.", no_args_is_help=True)

_WIDTH = 24
_SHOWN = 10


@app.command("show")
def show_command(
    cache: Annotated[Path, typer.Argument(help="A calibration cache, ours or TensorRT's.")],
    tensors: Annotated[
        Optional[list[str]], typer.Option("--tensor", help="Draw this tensor; may be given several times.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="Draw so many of the tensors that INT8 disturbs most.")] = 3,
    as_json: options.AsJson = False,
) -> None:
    """Show every tensor's range and, where the cache is ours, why, and histograms with the thresholds of all rules."""
    table = CalibrationTable.read(cache)
    calibration = load_description(cache)
    drawn = _drawn(cache, calibration, tensors or [], worst)
    if as_json:
        console.print_json(_show_dict(cache, table, calibration, drawn))
        return
    if not tensors:
        rule = f", rule {calibration.rule}, model {calibration.model}" if calibration is not None else ""
        _lines(f"{cache}: {table.header}{rule}, {len(table)} tensors")
        console.show(_ranges(table, calibration))
        if calibration is not None and calibration.choice is not None:
            console.show(tabulate_rules(calibration.choice))
            show_tensors(calibration.choice)
    if calibration is None:
        return
    for name in drawn:
        console.line()
        console.line(console.styled(name, "bold"))
        _lines(*histograms.draw(calibration, name, console.out.width))


def _drawn(cache: Path, calibration: Calibration | None, tensors: list[str], worst: int) -> list[str]:
    """The tensors to draw: those that were named, or the worst."""
    if calibration is None:
        if tensors:
            raise CalibrationCacheError(
                f"{cache} has no histograms: no {cache.stem}.json stands beside it", "show it without --tensor"
            )
        return []
    for name in tensors:
        if name not in calibration.histograms:
            near = get_close_matches(name, calibration.histograms, 3, 0.4)
            raise BadInputError(
                f"the cache has no histogram of {name!r}",
                f"did you mean {' or '.join(near)}?" if near else "`trt-ff cache show` without --tensor lists them",
            )
    return tensors or histograms.worst(calibration, worst)


def _ranges(table: CalibrationTable, calibration: Calibration | None) -> Table:
    """Every tensor with its range."""
    shown = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("tensor", overflow="fold")
    for name in ("amax", "scale"):
        shown.add_column(name, justify="right")
    if calibration is not None:
        shown.add_column("seen", justify="right")
        shown.add_column("kept", justify="right")
        shown.add_column("|x| from 0 to largest", no_wrap=True)
    for name, amax in table.items():
        row = [console.plain(name), f"{amax:.5g}", f"{amax / 127:.3g}"]
        if calibration is not None:
            row += _histogram_cells(calibration.histograms.get(name), amax, pinned=name in calibration.pinned)
        shown.add_row(*row)
    return shown


def _show_dict(
    cache: Path, table: CalibrationTable, calibration: Calibration | None, drawn: list[str]
) -> dict[str, Any]:
    choice = None if calibration is None else calibration.choice
    return {
        "schema": 1,
        "path": str(cache),
        "header": table.header,
        "rule": None if calibration is None else calibration.rule,
        "model": None if calibration is None else calibration.model,
        "model_digest": None if calibration is None else calibration.model_digest,
        "tensors": dict(table),
        "choice": None if choice is None else choice.as_dict(),
        "histograms": {} if calibration is None else {name: histograms.facts(calibration, name) for name in drawn},
    }


def _histogram_cells(histogram: Histogram | None, amax: float, *, pinned: bool) -> list[str]:
    """The largest magnitude seen, what share of it the range keeps, and the histogram as bars."""
    if histogram is None or not histogram.amax:
        return ["-", "pinned" if pinned else "-", ""]
    return [
        f"{histogram.amax:.5g}",
        "pinned" if pinned else f"{amax / histogram.amax:.0%}",
        histograms.sparkline(histogram, _WIDTH),
    ]


@app.command("diff")
def diff_command(
    first: Annotated[Path, typer.Argument(help="A calibration cache.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same model.")],
    limit: Annotated[int, typer.Option(min=0, help="Show this many tensors at most (0: all).")] = 40,
    as_json: options.AsJson = False,
) -> None:
    """Compare two caches tensor by tensor, the largest change first."""
    comparison = compare_tables(CalibrationTable.read(first), CalibrationTable.read(second))
    if as_json:
        console.print_json(_diff_dict(comparison))
        return
    if not comparison.changes:
        raise CalibrationCacheError(
            f"{first} and {second} have no tensor in common",
            "compare caches of the same model; `trt-ff cache convert` brings a foreign one into the model's names",
        )
    shown = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("tensor", overflow="fold")
    for name in ("first", "second", "second / first"):
        shown.add_column(name, justify="right")
    for change in comparison.changes[: limit or None]:
        shown.add_row(console.plain(change.name), f"{change.first:.5g}", f"{change.second:.5g}", f"{change.ratio:.4f}")
    console.show(shown)
    equal = sum(abs(change.ratio - 1) < 1e-6 for change in comparison.changes)
    summary = f"{len(comparison.changes)} tensors in both, {equal} of them equal"
    if limit and len(comparison.changes) > limit:
        summary += f"; {len(comparison.changes) - limit} smaller changes are not shown (--limit 0)"
    _lines(
        summary,
        _named("only in the first", comparison.only_first),
        _named("only in the second", comparison.only_second),
    )


def _diff_dict(comparison: TableComparison) -> dict[str, Any]:
    rows = [{"name": c.name, "first": c.first, "second": c.second, "ratio": c.ratio} for c in comparison.changes]
    return {
        "schema": 1,
        "tensors": rows,
        "only_first": list(comparison.only_first),
        "only_second": list(comparison.only_second),
    }


@app.command("convert")
def convert_command(
    cache: Annotated[Path, typer.Argument(help="A calibration cache of TensorRT 8 or 10, or ours.")],
    onnx: Annotated[Path, typer.Option(help="The FP32 model that it was made for.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="FILE.onnx: the model with Q/DQ and casts; FILE.cache: the table.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT if it is there.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Take a cache that TensorRT 8 or 10 made along to TensorRT 11, TensorRT-RTX or onnxruntime.

    Those read no caches. The ranges go into the model as Q/DQ instead, where the plan by rules puts INT8.
    """
    if output.suffix not in {".onnx", ".cache"}:
        raise BadInputError(f"the output {output} is neither FILE.onnx nor FILE.cache", "name one of the two")
    if output.exists() and not force:
        raise BadInputError(f"{output} exists", "name another file with --output, or add --force")
    source = OnnxSource(onnx)
    view = _prepared(source)
    table = load_named(cache, model_digest=digest_model(view.model))
    calibration = load_description(cache)
    affines = {} if calibration is None else read_affines(calibration)
    divided = {name: table[name] for name in map(equalised_name, affines) if name in table}
    fitted = assign_ranges(
        CalibrationTable({n: amax for n, amax in table.items() if n not in divided}, table.header), view
    )
    require_int8(view, fitted.amax, cache)
    plan: Plan | None = None
    if output.suffix == ".onnx":
        plan = plan_by_rules(view, fitted.amax, source.name)
        typed = lower(view, plan, {**fitted.amax, **divided}, affines=affines)
        write_atomic(output, serialise_model(typed))
    else:
        write_atomic(output, CalibrationTable(fitted.amax, table.header).dumps().encode("utf-8"))
    _report(output, fitted, plan, as_json=as_json)


def _prepared(source: OnnxSource) -> GraphView:
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in read_input_specs(source.model):
        rest = tuple(size for size in spec.shape[1:] if isinstance(size, int))
        if len(rest) != len(spec.shape) - 1:
            raise BadInputError(
                f"the input {spec} has sizes that are not fixed, behind the batch",
                "export the model with fixed sizes; only the batch may be dynamic",
            )
        shapes[spec.name] = rest
    return GraphView(prepare(source.model, shapes).model)


def _report(output: Path, fitted: AssignedRanges, plan: Plan | None, *, as_json: bool) -> None:
    without = [node.name for node in plan.nodes if "no range for" in node.reason] if plan is not None else []
    int8: Optional[int] = len(plan.names(Precision.INT8)) if plan is not None else None
    if as_json:
        console.print_json(
            {
                "schema": 1,
                "output": str(output),
                "tensors": len(fitted.amax),
                "derived": dict(fitted.derived),
                "missing": list(fitted.missing),
                "constants": list(fitted.constants),
                "unknown": list(fitted.unknown),
                "int8_nodes": int8,
                "int8_lost": without,
            }
        )
        return
    _lines(
        f"{output}: ranges for {len(fitted.amax)} tensors, {len(fitted.derived)} of them copies of others"
        + (f"; {int8} nodes in INT8" if int8 is not None else ""),
        _named("tensors without a range", fitted.missing),
        _named("nodes that stay FP16 because of that", without),
        _named("names that the model does not have", fitted.unknown),
        f"{len(fitted.constants)} names of weights: those are quantised from their own values"
        if fitted.constants
        else "",
    )


def _named(what: str, names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}" if names else ""


def _lines(*lines: str) -> None:
    for line in lines:
        if line:
            console.line(line)
