"""`trt-ff cache`: look at calibration caches, compare them, and take those of TensorRT 8 and 10 along."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.cli import console, convert, histograms, options
from trt_facefusion.cli.calibrate import show_tensors, tabulate_rules
from trt_facefusion.cli.listing import count_names, print_lines
from trt_facefusion.errors import BadInputError, CalibrationCacheError
from trt_facefusion.quantization.calibration import (
    Calibration,
    CalibrationTable,
    Histogram,
    TableComparison,
    compare_tables,
    load_description,
)

app = typer.Typer(help="Show, compare and convert calibration caches.", no_args_is_help=True)

_WIDTH = 24


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
    drawn = _choose_drawn(cache, calibration, tensors or [], worst)
    if as_json:
        console.print_json(_describe_cache(cache, table, calibration, drawn))
        return
    if not tensors:
        rule = f", rule {calibration.rule}, model {calibration.model}" if calibration is not None else ""
        print_lines(f"{cache}: {table.header}{rule}, {len(table)} tensors")
        console.show(_tabulate_ranges(table, calibration))
        if calibration is not None and calibration.choice is not None:
            console.show(tabulate_rules(calibration.choice))
            show_tensors(calibration.choice)
    if calibration is None:
        return
    for name in drawn:
        console.line()
        console.line(console.styled(name, "bold"))
        print_lines(*histograms.draw(calibration, name, console.out.width))


def _choose_drawn(cache: Path, calibration: Calibration | None, tensors: list[str], worst: int) -> list[str]:
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
    return tensors or histograms.list_worst(calibration, worst)


def _tabulate_ranges(table: CalibrationTable, calibration: Calibration | None) -> Table:
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
            row += _summarise_histogram(calibration.histograms.get(name), amax, pinned=name in calibration.pinned)
        shown.add_row(*row)
    return shown


def _describe_cache(
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
        "histograms": {}
        if calibration is None
        else {name: histograms.describe_tensor(calibration, name) for name in drawn},
    }


def _summarise_histogram(histogram: Histogram | None, amax: float, *, pinned: bool) -> list[str]:
    """The largest magnitude seen, what share of it the range keeps, and the histogram as bars."""
    if histogram is None or not histogram.amax:
        return ["-", "pinned" if pinned else "-", ""]
    return [
        f"{histogram.amax:.5g}",
        "pinned" if pinned else f"{amax / histogram.amax:.0%}",
        histograms.draw_sparkline(histogram, _WIDTH),
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
        console.print_json(_describe_changes(comparison))
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
    print_lines(
        summary,
        count_names("only in the first", comparison.only_first),
        count_names("only in the second", comparison.only_second),
    )


def _describe_changes(comparison: TableComparison) -> dict[str, Any]:
    rows = [{"name": c.name, "first": c.first, "second": c.second, "ratio": c.ratio} for c in comparison.changes]
    return {
        "schema": 1,
        "tensors": rows,
        "only_first": list(comparison.only_first),
        "only_second": list(comparison.only_second),
    }


app.command("convert")(convert.command)
