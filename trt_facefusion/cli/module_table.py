"""The table of `trt-ff compare --model`: a row for each variant of a torch module."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.cli import console
from trt_facefusion.lineup.module_cells import COLUMNS, describe_series, list_module_notes, list_rows
from trt_facefusion.lineup.module_run import ModuleLineup


def show_module(lineup: ModuleLineup) -> None:
    """The table, and below it what a person should know before comparing."""
    table = Table(
        title=console.plain(lineup.model), title_justify="left", title_style="bold", header_style="bold",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("library", no_wrap=True)
    table.add_column("precision", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in list_rows(lineup):
        table.add_row(*row)
    console.show(table)
    for note in list_module_notes(lineup):
        console.line(f"- {note}")
    console.line(describe_series(lineup))
