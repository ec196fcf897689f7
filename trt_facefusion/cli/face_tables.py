"""What `trt-ff faces` shows: what a set of faces covers, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from trt_facefusion.cli import console
from trt_facefusion.faces.curation.coverage import CoverageFinding, FaceCoverage, Row
from trt_facefusion.faces.curation.facets import AXES
from trt_facefusion.faces.curation.measure import SurveyedPhoto
from trt_facefusion.faces.curation.survey import Survey
from trt_facefusion.faces.faceset import KINDS

if TYPE_CHECKING:
    from trt_facefusion.build.curate import Curated


def summarise_survey(surveyed: Survey) -> str:
    """How many faces, photos and people there are, in a line."""
    photos = len(surveyed) + len(surveyed.skipped)
    people = len(np.unique(surveyed.persons))
    return f"{len(surveyed)} faces in {photos} photos, about {people} {'person' if people == 1 else 'people'}"


def survey_as_dict(folder: Path, surveyed: Survey, covered: FaceCoverage) -> dict[str, Any]:
    """The audit as ``--json`` prints it; no embedding, nobody's identity."""
    copies = surveyed.copy_of
    return {
        "schema": 1,
        "folder": str(folder),
        "photos": len(surveyed) + len(surveyed.skipped),
        "faces": len(surveyed),
        "different_pictures": len(surveyed.pick_best_copies()),
        "people_about": len(np.unique(surveyed.persons)),
        "photos_of_the_most_frequent_person": surveyed.largest_person,
        "skipped": [{"file": skip.file, "kind": skip.kind, "reason": skip.reason} for skip in surveyed.skipped],
        "coverage": covered.as_dict(),
        "per_photo": [photo.as_dict() | {"near_copy_of": copies.get(photo.file)} for photo in _sort_by_name(surveyed)],
    }


def _sort_by_name(surveyed: Survey) -> list[SurveyedPhoto]:
    return sorted(surveyed.photos, key=lambda photo: photo.file)


def show_coverage(surveyed: Survey, covered: FaceCoverage) -> None:
    """The audit: coverage, gaps, and what is wrong with the set."""
    console.out.print(summarise_survey(surveyed))
    kinds = surveyed.faces.count_skipped()
    if kinds:
        reasons = ", ".join(f"{count} {KINDS[kind]}" for kind, count in kinds.items())
        console.out.print(f"skipped: {reasons}")
    if surveyed.faces.note:
        console.out.print(console.plain(surveyed.faces.note))
    console.show(_tabulate_coverage({"share": covered}))
    _show_findings("Gaps", covered.gaps, "yellow")
    _show_findings("Wrong with the set", covered.problems, "red")
    if not covered.problems and not covered.gaps:
        console.out.print(console.styled("nothing is missing", "green"))


def show_selection(selected: Curated, output: Path) -> None:
    """What a selection covers, before and after, and what it still lacks."""
    before, after = selected.coverage["before"], selected.coverage["after"]
    picked, everything = len(selected.selection.picks), len(selected.survey)
    console.show(_tabulate_coverage({f"all {everything}": before, f"chosen {picked}": after}))
    _show_findings("Still missing", after.gaps, "yellow")
    _show_findings("Wrong with the set", selected.problems, "red")
    dropped = len(selected.selection.dropped)
    text = f"chosen {picked} of {everything} faces; {dropped} left out as too poor or near copies"
    console.out.print(text)
    print_files([output])


def _tabulate_coverage(columns: dict[str, FaceCoverage]) -> Table:
    """Shares by axis and bin; one column for each coverage, and what is aimed at."""
    table = Table(header_style="bold")
    table.add_column("")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("aim", justify="right")
    by_place = [{(row.axis, row.bin): row for row in covered.rows} for covered in columns.values()]
    for axis, rows in groupby(next(iter(columns.values())).rows, key=lambda row: row.axis):
        shown = [row for row in rows if row.bin != "other"]
        for number, row in enumerate(shown):
            shares = [_format_share(row_at[axis, row.bin]) for row_at in by_place]
            title = AXES[axis].title if number == 0 else ""
            table.add_row(title, row.words, *shares, _format_aim(row), end_section=number == len(shown) - 1)
    return table


def _format_share(row: Row) -> str | Text:
    text = f"{row.share:.1%}"
    return console.styled(text, "yellow") if row.gap else text


def _format_aim(row: Row) -> str:
    least, most = row.target.least, row.target.most
    if least > 0 and most < 1:
        return f"{100 * least:.0f} to {most:.0%}"
    return f">= {least:.0%}" if least > 0 else f"<= {most:.0%}" if most < 1 else ""


def _show_findings(heading: str, findings: Sequence[CoverageFinding], colour: str) -> None:
    if not findings:
        return
    console.line()
    console.line(console.styled(heading, f"bold {colour}"))
    for finding in findings:
        hanging = Table.grid(padding=(0, 1))
        hanging.add_column(no_wrap=True)
        hanging.add_column(overflow="fold")
        hanging.add_row(console.styled("!", colour), console.plain(finding.text))
        hanging.add_row("", console.styled(finding.advice, "dim"))
        console.out.print(hanging)


def print_files(files: Sequence[Path]) -> None:
    """A line for each file that was written."""
    for file in files:
        console.line(f"written: {file}")
