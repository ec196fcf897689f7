from __future__ import annotations

import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from trt_facefusion.faces.curation.coverage import measure_coverage
from trt_facefusion.faces.curation.survey import survey_folder
from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.report.contact_sheet import ContactSheet, render_html, render_png


@pytest.fixture(scope="module")
def sheet(sample_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> ContactSheet:
    folder = tmp_path_factory.mktemp("sheet")
    for path in sorted(sample_faces.glob("*.jpg"))[:10]:
        (folder / path.name).write_bytes(path.read_bytes())
    found = survey_folder(folder, embedder=DlibEmbedder())
    return ContactSheet("Faces in <b>", "ten faces", found.photos, found.chips, measure_coverage(found))


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {key}={value}" for key, value in attrs if key in {"src", "href"}]
        self.found += [tag] if tag in {"script", "link", "iframe"} else []


def test_nothing_is_loaded_from_outside(sheet: ContactSheet) -> None:
    page, links = render_html(sheet), Links()
    links.feed(page)
    assert links.found == []
    assert all(address.startswith("data:image/") for address in re.findall(r"url\(([^)]*)\)", page))


def test_the_page_shows_each_photo_and_each_finding(sheet: ContactSheet) -> None:
    page = unescape(render_html(sheet))
    for photo in sheet.photos:
        assert photo.file in page
    for finding in (*sheet.coverage.problems, *sheet.coverage.gaps):
        assert finding.text in page and finding.advice in page


def test_titles_and_file_names_are_text_not_markup(sheet: ContactSheet) -> None:
    odd = replace(sheet.photos[0], file='"><script>alert(1)</script>.jpg')
    page = render_html(replace(sheet, photos=(odd, *sheet.photos[1:])))
    assert "<script" not in page and "Faces in <b>" not in page


def test_the_picture_holds_the_faces_by_light_and_pose(sheet: ContactSheet) -> None:
    picture, darker = (
        np.array(PIL.Image.open(io.BytesIO(render_png(shown))).convert("RGB"))
        for shown in (sheet, replace(sheet, chips=np.asarray(sheet.chips) // 2))
    )
    assert picture.shape[1] > 1000
    placed = sum(len(members) for members in sheet.cells().values())
    assert placed == sum(photo.pose is not None for photo in sheet.photos)
    assert picture.mean() > darker.mean()


def test_the_same_photos_give_the_same_sheet(sheet: ContactSheet) -> None:
    assert render_html(sheet) == render_html(sheet) and render_png(sheet) == render_png(sheet)
