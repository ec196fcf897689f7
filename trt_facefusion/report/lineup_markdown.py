"""A comparison as Markdown: one row for each engine."""

from __future__ import annotations

from collections.abc import Sequence

from trt_facefusion.lineup.cells import (
    describe_entry,
    describe_measuring,
    find_published,
    list_figures,
    list_notes,
    name_entry,
)
from trt_facefusion.lineup.entry import Lineup
from trt_facefusion.text import printable


def render_markdown(lineup: Lineup, command: str) -> str:
    """The page; ``command`` is the one that makes it again."""
    figures = list_figures(lineup)
    rows = [describe_entry(entry, figures) for entry in lineup.entries]
    labels = list(rows[0]) if rows else []
    header = ["backend", "target", "precision", *labels]
    body = [
        [f"{entry.backend} {entry.version}", entry.target, name_entry(entry), *row.values()]
        for entry, row in zip(lineup.entries, rows, strict=True)
    ]
    published = find_published(lineup.published, figures)
    if published:
        body.append(["published", "", "FP32 / FP16 / INT8", *(published.get(label, "") for label in labels)])
    parts = [
        f"# {escape_markdown(lineup.model)}: every engine side by side",
        f"Made by `{command}`. {escape_markdown(describe_measuring(lineup))}",
        "\n".join(format_row(row) for row in (header, ["---"] * len(header), *body)),
        "\n".join(f"- {escape_markdown(note)}" for note in list_notes(lineup)),
    ]
    return "\n\n".join(parts) + "\n"


def format_row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(escape_markdown(cell) for cell in cells)} |"


def escape_markdown(text: str) -> str:
    """Text in which Markdown finds no markup of its own."""
    return "".join(f"\\{c}" if c in "\\|<>*_`[]" else c for c in printable(text))
