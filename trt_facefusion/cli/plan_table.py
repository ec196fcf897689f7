"""What `trt-ff plan` shows: the front of the search, and the plan that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.build.plan_only import PlanResult
from trt_facefusion.cli import console
from trt_facefusion.cli.figures import format_figure
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.types import Precision

_SHOWN = 3


@dataclass(frozen=True)
class _Column:
    """One of the columns that say what a plan spares."""

    field: str
    title: str
    show: Callable[[float], str]


_COSTS = (
    _Column("predicted_ms", "predicted", "{:.4g} ms".format),
    _Column("int8_macs_share", "MACs in INT8", "{:.1%}".format),
    _Column("weights_bytes", "weights", lambda count: f"{count / 1e6:.2f} MB"),
)
_COLUMNS = ("ssim_drop", "ssim_drop_worst")


def show_plan(planned: PlanResult) -> None:
    """The front, and what was chosen."""
    if planned.search:
        console.show(tabulate_front(planned.search))
        if "times" in planned.search:
            console.line(describe_times(planned.search["times"]))
        for name, why in planned.search["excluded"].items():
            console.line(f"no candidate: {name}: {why}")
    accuracy, shares = planned.accuracy, planned.plan.macs_share()
    console.line(
        f"chosen: {len(planned.plan.names(Precision.INT8))} layers with {shares['int8']:.1%} of the MACs in INT8; "
        f"on {accuracy.faces} verification faces the SSIM drop is {accuracy.ssim_drop:.3%}, "
        f"{accuracy['ssim_drop_worst']:.3%} on the worst"
        + (f", after {planned.repairs} rounds of repair" if planned.repairs else "")
    )


def describe_times(times: Mapping[str, Any]) -> str:
    """What compiling said of times: both ends, the fastest, and what that took."""
    return (
        f"{times['what']}, on {times['gpu']}: {times['fp16_ms']:.4g} ms in FP16, {times['all_int8_ms']:.4g} ms with "
        f"all candidates in INT8, {times['fastest_ms']:.4g} ms at best; {times['builds']} engines compiled in "
        f"{times['seconds']:.0f} s"
    )


def tabulate_front(search: Mapping[str, Any]) -> Table:
    """The Pareto front: each row a measured plan, each spares a little less and is more exact."""
    title = (
        f"{search['plans']} plans measured on {search['faces']} calibration faces, "
        f"{search['passes']} inferences in {search['seconds']:.0f} s"
    )
    points, own = search["points"], [column for column in _COSTS if all(column.field in p for p in search["points"])]
    limited = {
        limit.short_name: figure for figure, limit in registry.iterate_limits() if limit.short_name not in _COLUMNS
    }
    limited = {name: figure for name, figure in limited.items() if all(name in point for point in points)}
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", *(column.title for column in own), "SSIM drop", "worst face", *limited):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layers raised", overflow="fold")
    for point in points:
        raised = point["raised"]
        names = ", ".join(raised[:_SHOWN]) + (f" and {len(raised) - _SHOWN} more" if len(raised) > _SHOWN else "")
        table.add_row(
            console.styled(">", "green") if point["chosen"] else "",
            *(column.show(point[column.field]) for column in own),
            f"{point['ssim_drop']:.3%}",
            f"{point['ssim_drop_worst']:.3%}",
            *(format_figure(figure, point[name]) for name, figure in limited.items()),
            console.plain(names or "none"),
            style="bold" if point["chosen"] else "",
        )
    return table
