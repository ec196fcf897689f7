"""A contact sheet of a set of faces: one page (HTML) or one picture (PNG) from which a person sees what is covered."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trt_facefusion.faces.crops import Crops
from trt_facefusion.faces.curation.coverage import CoverageFinding, FaceCoverage, Row
from trt_facefusion.faces.curation.facets import AXES, assign_bins
from trt_facefusion.faces.curation.measure import SurveyedPhoto
from trt_facefusion.report.images import encode_data_uri
from trt_facefusion.report.pages import load_templates
from trt_facefusion.sampling import spread
from trt_facefusion.text import printable

COLUMNS = {
    "profile left": "profile, left",
    "left": "turned left",
    "frontal": "frontal",
    "right": "turned right",
    "profile right": "profile, right",
}
ROWS = {"bright": "bright", "even": "even light", "side": "side light", "low": "low light"}

_CELL_COLUMNS, _CELL_ROWS, _THUMB_PX = 4, 3, 64
_CELL_FACES = _CELL_COLUMNS * _CELL_ROWS
MOST_SHOWN = 600
"""Photos that the page shows one by one: with more it would weigh many megabytes."""


@dataclass(frozen=True)
class ContactSheet:
    """What is shown: ``chips`` [N,128,128,3] uint8 of ``photos``, their coverage, a title and a line below it."""

    title: str
    subtitle: str
    photos: Sequence[SurveyedPhoto]
    chips: NDArray[np.uint8] | Crops
    coverage: FaceCoverage

    def cells(self) -> dict[tuple[str, str], list[int]]:
        """Photos by light and pose, each cell from dark to light skin; photos of unknown pose are in none."""
        members_of: dict[tuple[str, str], list[int]] = {(row, column): [] for row in ROWS for column in COLUMNS}
        for index, photo in enumerate(self.photos):
            place = assign_bins(photo)
            if "pose" in place:
                pose = place["pose"]
                side = "right" if photo.pose is not None and photo.pose.yaw > 0 else "left"
                members_of[place["light"], f"{pose} {side}" if pose == "profile" else pose].append(index)
        for members in members_of.values():
            members.sort(key=lambda index: (_read_tone(self.photos[index]), self.photos[index].digest))
        return members_of


def _read_tone(photo: SurveyedPhoto) -> float:
    return -999.0 if photo.tone.ita is None else photo.tone.ita


def _pick_evenly(members: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``members``, evenly spread."""
    return [members[place] for place in spread(len(members), most)]


def render_html(sheet: ContactSheet) -> str:
    """The sheet as a page in which nothing is loaded from outside."""
    thumbs = {index: encode_data_uri(_make_thumb(sheet.chips[index])) for index in _choose_shown(sheet)}
    return (
        load_templates()
        .get_template("contact_sheet.html")
        .render(
            sheet=sheet,
            columns=COLUMNS,
            rows=ROWS,
            cells={
                place: (len(members), _pick_evenly(members, _CELL_FACES)) for place, members in sheet.cells().items()
            },
            thumbs=thumbs,
            axes=[
                _make_bars(name, list(rows)) for name, rows in groupby(sheet.coverage.rows, key=lambda row: row.axis)
            ],
            groups=_group_by_pose(sheet, set(thumbs)),
            hidden=len(sheet.photos) - len(thumbs),
        )
    )


def _choose_shown(sheet: ContactSheet) -> set[int]:
    in_cells = {index for members in sheet.cells().values() for index in _pick_evenly(members, _CELL_FACES)}
    return in_cells | set(_pick_evenly(range(len(sheet.photos)), MOST_SHOWN))


def _make_bars(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {"title": AXES[name].title, "rows": [row for row in rows if row.bin != "other"]}


def _group_by_pose(sheet: ContactSheet, shown: set[int]) -> list[dict[str, Any]]:
    """All shown photos by pose, each group from dark to bright light."""
    poses = {**AXES["pose"].bins, "": "faces of unknown pose"}
    members: dict[str, list[int]] = {key: [] for key in poses}
    for index in sorted(shown, key=lambda index: sheet.photos[index].exposure.lightness):
        members[assign_bins(sheet.photos[index]).get("pose", "")].append(index)
    return [{"title": poses[key], "members": group} for key, group in members.items() if group]


def _make_thumb(chip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(chip).resize((96, 96), Image.Resampling.LANCZOS), np.uint8)


_INK, _SOFT, _BACK, _CARD, _BAD = "#1c1f23", "#5d6670", "#f6f7f9", "#ffffff", "#b3261e"
_EDGE, _LABEL, _GAP = 24, 96, 10
_CELL_W, _CELL_H = _CELL_COLUMNS * _THUMB_PX + 8, _CELL_ROWS * _THUMB_PX + 30
_LINES = 14


def render_png(sheet: ContactSheet) -> bytes:
    """The sheet as a picture: light down, pose across, up to 12 faces a cell, and the gaps in words."""
    width = 2 * _EDGE + _LABEL + len(COLUMNS) * (_CELL_W + _GAP)
    top = 104
    findings = [*sheet.coverage.problems, *sheet.coverage.gaps]
    grid_bottom = top + 24 + len(ROWS) * (_CELL_H + _GAP)
    height = grid_bottom + 44 + 22 * (min(len(findings), _LINES) + 1) + _EDGE
    canvas = Image.new("RGB", (width, height), _BACK)
    draw = ImageDraw.Draw(canvas)
    draw.text((_EDGE, 22), printable(sheet.title), _INK, _load_font(26))
    draw.text((_EDGE, 60), printable(sheet.subtitle), _SOFT, _load_font(15))
    cells = sheet.cells()
    for column, (pose, name) in enumerate(COLUMNS.items()):
        x = _EDGE + _LABEL + column * (_CELL_W + _GAP)
        draw.text((x, top - 4), name, _INK, _load_font(16))
        for row, light in enumerate(ROWS):
            _draw_cell(canvas, draw, (x, top + 24 + row * (_CELL_H + _GAP)), sheet.chips, cells[light, pose])
    for row, name in enumerate(ROWS.values()):
        draw.text((_EDGE, top + 32 + row * (_CELL_H + _GAP)), name, _INK, _load_font(16))
    _draw_findings(draw, grid_bottom + 16, findings)
    buffer = io.BytesIO()
    canvas.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _draw_cell(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    chips: NDArray[np.uint8] | Crops,
    members: list[int],
) -> None:
    x, y = at
    draw.rounded_rectangle((x, y, x + _CELL_W, y + _CELL_H), 6, _CARD)
    draw.text((x + 6, y + 4), str(len(members)) if members else "none", _SOFT if members else _BAD, _load_font(15))
    for place, index in enumerate(_pick_evenly(members, _CELL_FACES)):
        thumb = Image.fromarray(chips[index]).resize((_THUMB_PX, _THUMB_PX), Image.Resampling.LANCZOS)
        row, column = divmod(place, _CELL_COLUMNS)
        canvas.paste(thumb, (x + 4 + column * _THUMB_PX, y + 26 + row * _THUMB_PX))


def _draw_findings(draw: ImageDraw.ImageDraw, y: int, findings: Sequence[CoverageFinding]) -> None:
    heading = "What is missing" if findings else "Every target is met"
    draw.text((_EDGE, y), heading, _INK, _load_font(18))
    for line, finding in enumerate(findings[:_LINES]):
        more = len(findings) - _LINES if line == _LINES - 1 else 0
        text = f"and {more + 1} more" if more > 0 else finding.text
        draw.text((_EDGE, y + 28 + 22 * line), text, _SOFT, _load_font(15))


def _load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
