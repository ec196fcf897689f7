"""Names that are JavaScript, HTML or escape sequences: shown, never run."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hostile import MARK, NAMES, check_harmless, opened, spoiled
from markupsafe import escape
from test_report import _record

from trt_facefusion.build.run_record import RunRecord
from trt_facefusion.faces.curation.coverage import measure_coverage
from trt_facefusion.faces.curation.survey import survey_folder
from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.report.charts import draw_pareto, draw_plan_strip, make_standalone
from trt_facefusion.report.contact_sheet import ContactSheet, render_html
from trt_facefusion.report.page import render_page
from trt_facefusion.report.pages import POLICY
from trt_facefusion.report.svg import dumps, element

KEPT = ("precision", "requested", "created")


def hostile_report() -> str:
    record = _record()
    facts = spoiled(dict(record.facts), keep=KEPT)
    names = cycle(NAMES)
    facts["skipped"] = dict.fromkeys(NAMES, 1)
    facts["engines"][0]["manifest"]["fallback"] = [{"from": next(names), "to": next(names), "reason": n} for n in NAMES]
    facts["engines"][0]["manifest"]["warnings"] = list(NAMES)
    facts["engines"][0]["manifest"]["inputs"]["settings"]["calibration"]["corrections_ssim_drop"] = dict.fromkeys(
        NAMES, 0.1
    )
    facts["engines"][0]["search"]["points"][0]["raised"] = list(NAMES)
    layer = facts["engines"][0]["plan"][0]
    facts["engines"][0]["plan"] = [{**layer, "name": name, "op": name, "reason": name} for name in NAMES]
    facts["tensors"] = [{**facts["tensors"][0], "name": name, "readers": [name]} for name in NAMES]
    return render_page(RunRecord(facts, record.pictures))


def hostile_sheet(faces: Path) -> str:
    surveyed = survey_folder(faces, embedder=DlibEmbedder())
    photos = [replace(photo, file=name) for photo, name in zip(surveyed.photos, cycle(NAMES), strict=False)]
    return render_html(ContactSheet(NAMES[0], NAMES[1], photos, surveyed.chips, measure_coverage(surveyed)))


@pytest.fixture(scope="module", params=["report", "contact sheet"])
def page(request: pytest.FixtureRequest, sample_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "report":
        return hostile_report()
    folder = tmp_path_factory.mktemp("few")
    for path in sorted(sample_faces.glob("*.jpg"))[: len(NAMES)]:
        (folder / path.name).write_bytes(path.read_bytes())
    return hostile_sheet(folder)


def test_hostile_names_are_text(page: str) -> None:
    check_harmless(page)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800]", page), "control characters"
    page.encode("utf-8")


@pytest.mark.parametrize("policy", [True, False], ids=["with its policy", "without"])
def test_a_browser_runs_nothing_of_them(page: str, policy: bool, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    bare = page.replace(str(escape(POLICY)), "")
    assert bare != page
    file.write_text(page if policy else bare)
    shown = opened(file)
    title = re.search(r"<title>(.*?)</title>", shown, re.DOTALL)
    assert title is not None and title[1] != MARK and "</html>" in shown


def test_the_browser_would_run_a_script(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<html><title>quiet</title>{NAMES[0]}</html>")
    assert f"<title>{MARK}</title>" in opened(file)
    file.write_text(
        f'<html><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>quiet</title>{NAMES[0]}</html>'
    )
    assert "<title>quiet</title>" in opened(file)


def test_charts_of_hostile_names_are_well_formed() -> None:
    rows = [{"name": n, "op": n, "macs": 9, "precision": n, "reason": n} for n in NAMES]
    drawn = ElementTree.fromstring(dumps(draw_plan_strip(rows)))
    assert len(drawn) == len(NAMES) and all(set(bar.attrib) == {"class", "x", "y", "width", "height"} for bar in drawn)
    assert next(drawn.iter("title")).text is not None
    alone = make_standalone(draw_pareto([{"int8_macs_share": 0.5, "ssim_drop": 0.1, "chosen": True}]))
    assert ElementTree.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"


def test_an_attribute_cannot_be_left_by_any_name() -> None:
    for name in NAMES:
        assert dumps(element("a", aria_label=name)).count('"') == 2
