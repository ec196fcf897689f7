"""The tables of `trt-ff compare`: one for each backend, precisions side by side, so that they fit a narrow terminal."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.cli import console
from trt_facefusion.lineup.cells import (
    UNKNOWN,
    describe_entry,
    describe_measuring,
    find_published,
    list_figures,
    list_notes,
    name_entry,
)
from trt_facefusion.lineup.entry import Entry, Lineup

_SECTION_ENDS = {"peak memory", "throughput", "faces judged"}


def show_lineup(lineup: Lineup) -> None:
    """The comparison, and below it what a person should know before comparing."""
    figures = list_figures(lineup)
    published = find_published(lineup.published, figures)
    for (backend, version, target), group in groupby(lineup.entries, lambda e: (e.backend, e.version, e.target)):
        entries = list(group)
        built = [entry for entry in entries if entry.built is not None]
        title = f"{backend} {version}, {target}"
        if not built:
            console.line(console.styled(title, "bold"))
            continue
        columns = [describe_entry(entry, figures) for entry in built]
        console.show(_tabulate(title, built, columns, published))
    for note in list_notes(lineup):
        console.line(f"- {note}")
    console.line(describe_measuring(lineup))


def _tabulate(title: str, built: list[Entry], columns: list[dict[str, str]], published: Mapping[str, str]) -> Table:
    table = Table(
        title=console.plain(title), title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("")
    for entry in built:
        table.add_column(name_entry(entry), justify="right")
    if published:
        table.add_column("published", style="dim", overflow="fold")
    for name in columns[0]:
        cells = [column[name] for column in columns]
        if any(cell != UNKNOWN for cell in cells):
            beside = [published.get(name, "")] if published else []
            table.add_row(name, *cells, *beside, end_section=name in _SECTION_ENDS)
    return table
