"""The variants of a torch module as Markdown."""

from __future__ import annotations

from trt_facefusion.lineup.module_cells import COLUMNS, describe_series, list_module_notes, list_rows
from trt_facefusion.lineup.module_run import ModuleLineup
from trt_facefusion.report.lineup_markdown import escape_markdown, format_row


def render_module_markdown(lineup: ModuleLineup, command: str) -> str:
    """The page; ``command`` is the one that makes it again."""
    header = ("library", "precision", *COLUMNS)
    parts = [
        f"# {escape_markdown(lineup.model)} in every precision",
        f"Made by `{command}`. {escape_markdown(describe_series(lineup))}",
        "\n".join(format_row(row) for row in (header, ["---"] * len(header), *list_rows(lineup))),
        "\n".join(f"- {escape_markdown(note)}" for note in list_module_notes(lineup)),
    ]
    return "\n\n".join(parts) + "\n"
