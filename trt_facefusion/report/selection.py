"""A curated folder on the disk: the photos, why each was chosen, the coverage before and after, and a contact sheet."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

from trt_facefusion.build.curate import Curated
from trt_facefusion.engine.store.atomic import commit_folder
from trt_facefusion.errors import BadInputError, FacesError
from trt_facefusion.report.contact_sheet import ContactSheet, render_html
from trt_facefusion.storage.files import write_synced

REASONS, FACTS, SHEET = "selection.csv", "selection.json", "contact_sheet.html"
SCHEMA = 1


def check_output(output: Path, folder: Path, force: bool) -> None:
    """Raise `BadInputError` unless ``output`` can be filled without losing anything that is not a selection."""
    here, there = output.resolve(), folder.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise BadInputError(
            f"{output} and {folder} lie inside of one another: the selection would mix with the photos",
            "name a folder elsewhere with --output",
        )
    if not output.exists():
        return
    if not output.is_dir():
        raise BadInputError(f"{output} is a file", "name a folder with --output")
    if not any(output.iterdir()):
        return
    if not (output / FACTS).is_file():
        raise BadInputError(
            f"{output} is not empty, and holds no selection that could be replaced", "name another folder with --output"
        )
    if not force:
        raise BadInputError(f"{output} holds a selection already", "replace it with --force, or name another folder")


def save_selection(curated: Curated, folder: Path, output: Path, *, link: bool = False) -> None:
    """Write ``output`` as a whole; an earlier one is replaced.

    Raises:
        FacesError: a photo is no longer what was measured.
        StoreError: the folder cannot be written to.
    """
    with commit_folder(output) as temporary:
        for photo in curated.selected.photos:
            _copy_photo(folder / photo.file, temporary / _choose_name(photo.file), photo.digest, link)
        # Names that are not UTF-8 are written as the file system holds them.
        write_synced(temporary / REASONS, format_reasons(curated).encode("utf-8", "surrogateescape"))
        write_synced(temporary / FACTS, (json.dumps(collect_facts(curated), indent=2) + "\n").encode())
        write_synced(temporary / SHEET, render_html(make_sheet(curated, folder)).encode(errors="backslashreplace"))


def _choose_name(file: str) -> str:
    """Where a photo goes: a photo called like a document must not be overwritten by it, least of all through a link."""
    return f"photo-{file}" if file in {REASONS, FACTS, SHEET} else file


def _copy_photo(source: Path, target: Path, digest: str, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)
    if hashlib.sha256(target.read_bytes()).hexdigest() != digest:
        raise FacesError(f"{source} was changed while it was read", "run the same command again")


def format_reasons(curated: Curated) -> str:
    """CSV: a line for each photo, the chosen ones in the order of choice, then those that were dropped."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "chosen", "reason", "distance"])
    photos = curated.survey.photos
    for rank, pick in enumerate(curated.selection.picks, 1):
        table.writerow([photos[pick.index].file, rank, pick.reason, pick.distance])
    for index, why in curated.selection.dropped:
        table.writerow([photos[index].file, "", why, ""])
    for skip in sorted(curated.survey.skipped, key=lambda skip: skip.file):
        table.writerow([skip.file, "", skip.reason, ""])
    return text.getvalue()


def collect_facts(curated: Curated) -> dict[str, Any]:
    """The selection as JSON: counts and coverage, no embedding, nobody's identity."""
    left = len(curated.survey) - len(curated.selection.picks) - len(curated.selection.dropped)
    return {
        "schema": SCHEMA,
        "photos": len(curated.survey) + len(curated.survey.skipped),
        "faces": len(curated.survey),
        "chosen": [curated.survey.photos[pick.index].file for pick in curated.selection.picks],
        "dropped": len(curated.selection.dropped),
        "skipped": curated.survey.faces.count_skipped(),
        "not_needed": left,
        "generator": curated.generator,
        "coverage": {when: covered.as_dict() for when, covered in curated.coverage.items()},
    }


def make_sheet(curated: Curated, folder: Path) -> ContactSheet:
    """The contact sheet of the chosen photos."""
    survey = curated.selected
    subtitle = f"{len(survey)} of {len(curated.survey)} faces in {folder.name}"
    return ContactSheet("Selection to calibrate on", subtitle, survey.photos, survey.chips, curated.coverage["after"])
