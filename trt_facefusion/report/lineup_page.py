"""A comparison as a page, with faces side by side, and on the disk."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.engine.store.atomic import commit_folder
from trt_facefusion.engine.store.manifest import make_safe_name
from trt_facefusion.lineup.cells import (
    describe_entry,
    describe_measuring,
    find_published,
    list_figures,
    list_notes,
    name_entry,
)
from trt_facefusion.lineup.entry import Lineup
from trt_facefusion.report.images import encode_data_uri
from trt_facefusion.report.pages import load_templates
from trt_facefusion.storage.files import write_synced

PAGE = "compare.html"


def render_lineup(lineup: Lineup) -> str:
    """The page."""
    figures = list_figures(lineup)
    published = find_published(lineup.published, figures)
    rows = [describe_entry(entry, figures) for entry in lineup.entries]
    labels = list(rows[0]) if rows else []
    pictures = lineup.gallery.pictures
    count = min((len(shown) for shown in pictures.values()), default=0)
    return (
        load_templates()
        .get_template("lineup.html")
        .render(
            title=f"{lineup.model}: every engine side by side",
            how=describe_measuring(lineup),
            engines=[
                (entry.backend, entry.target, name_entry(entry), row)
                for entry, row in zip(lineup.entries, rows, strict=True)
            ],
            labels=labels,
            published=published,
            notes=list_notes(lineup),
            columns=list(pictures),
            faces=[[encode_data_uri(pictures[name][face]) for name in pictures] for face in range(count)],
        )
    )


def save_lineup(lineup: Lineup, root: Path) -> Path:
    """Write the page to ``root``/MODEL/compare-TIME, whole, and give its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    time = lineup.created.partition("+")[0].replace(":", "").replace("T", "-")
    by_time = root / make_safe_name(lineup.model) / f"compare-{time}"
    final, number = by_time, 2
    while final.exists():
        final, number = by_time.with_name(f"{by_time.name}-{number}"), number + 1
    page = render_lineup(lineup).encode()
    with commit_folder(final) as folder:
        write_synced(folder / PAGE, page)
    return final / PAGE
