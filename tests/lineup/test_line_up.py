"""Every engine side by side: built where possible, measured where it runs, a row with a reason where not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tiny import Settings

from trt_facefusion.cli import console
from trt_facefusion.cli.lineup_table import show_lineup
from trt_facefusion.cli.main import run
from trt_facefusion.engine.backends import registry
from trt_facefusion.errors import BackendUnavailableError, BadInputError, BuildError
from trt_facefusion.evaluation.profiling.measure import Counts
from trt_facefusion.lineup import gather, measuring
from trt_facefusion.lineup.entry import Lineup
from trt_facefusion.lineup.gather import LineupSettings, line_up
from trt_facefusion.lineup.measuring import TimingSettings
from trt_facefusion.lineup.published import GENERATORS, MODULES, list_published
from trt_facefusion.report.lineup_markdown import render_markdown
from trt_facefusion.report.lineup_page import render_lineup, save_lineup

TIMING = TimingSettings(Counts(1, 3, 3), threads=1)


class Missing(registry.OnnxRuntime):
    """A backend whose library is not there."""

    name = "missing"

    def version(self) -> str:
        raise BackendUnavailableError("the library of <b>missing</b> is not installed.", "Install it.")

    def require(self, target: str) -> None:
        self.version()


@pytest.fixture(scope="module")
def lineup(module_settings: Settings) -> Lineup:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "BACKENDS", (registry.OnnxRuntime(), Missing()))
        return line_up(LineupSettings(module_settings(backend="auto"), TIMING, shown_faces=2))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes of their own for memory."""
    monkeypatch.setattr(measuring, "measure_peak_bytes", lambda *_: None)


def test_what_runs_is_measured_and_what_does_not_has_a_reason(lineup: Lineup) -> None:
    *built, missing = lineup.entries
    assert [entry.precision for entry in built] == ["fp32", "fp16", "int8"]
    for entry in built:
        assert entry.basis == "measured" and entry.timing is not None
        assert 0 < entry.timing.latency.p50 <= entry.timing.latency.p99 and entry.timing.throughput_per_s > 0
        assert entry.timing.peak_bytes is None or entry.timing.peak_bytes >= 0
        assert entry.weights_bytes and entry.figures["ssim_drop"] is not None and entry.faces
    assert built[2].int8_share and "needs calibration" in built[2].remarks
    assert (missing.built, missing.basis) == (None, "none") and "not installed" in missing.reason
    document = json.loads(json.dumps(lineup.as_dict(), allow_nan=False))
    assert document["engines"][3]["reason"] == missing.reason
    assert document["published"][0]["rows"][1]["int8"] == "28 ms"


def test_terminal_markdown_and_page_show_the_same(
    lineup: Lineup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(console, "out", console.Screen(width=80))
    assert isinstance(console.out, Console)
    show_lineup(lineup)
    shown = capsys.readouterr().out
    markdown, page = render_markdown(lineup, "trt-ff compare"), render_lineup(lineup)
    share = f"{lineup.entries[2].int8_share:.1%}"
    for text in (shown, markdown, page):
        assert share in text and "90 ms / 55 ms / 28 ms" in text and "no code, network or data published" in text
    assert "<b>missing" not in page and "<b>missing" not in markdown
    assert all(len(line) <= 80 for line in shown.splitlines() if "│" in line or "─" in line)
    assert page.count("<img") == 2 * len(lineup.gallery.pictures) and "its typed ONNX" not in page
    first, second = save_lineup(lineup, tmp_path / "reports"), save_lineup(lineup, tmp_path / "reports")
    assert first != second and first.read_text() == page


@pytest.mark.usefixtures("quick")
def test_a_named_engine_is_compared_as_it_is(lineup: Lineup, module_settings: Settings) -> None:
    folder = lineup.entries[0].folder
    assert folder is not None
    again = line_up(LineupSettings(module_settings(backend="auto"), TIMING, ("onnxruntime",), (folder,)))
    named = again.entries[-1]
    assert f"named: {folder}" in named.remarks and named.basis == "measured"
    assert named.figures == lineup.entries[0].figures
    with pytest.raises(BadInputError, match="nothing"):
        line_up(LineupSettings(module_settings(backend="auto"), TIMING, ("onnxruntime",), (folder / "none",)))


@pytest.mark.usefixtures("quick", "lineup")
def test_one_precision_that_cannot_be_built_is_a_row(
    module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = gather.build

    def refuse_fp16(wanted, *rest):  # type: ignore[no-untyped-def]
        if any(precision.value == "fp16" for precision in wanted.precisions):
            raise BuildError("no half here.", "Take fp32.")
        return build(wanted, *rest)

    monkeypatch.setattr(gather, "build", refuse_fp16)
    entries = line_up(LineupSettings(module_settings(backend="auto"), TIMING, ("onnxruntime",))).entries
    assert [(entry.precision, entry.built) for entry in entries] == [("fp32", "fp32"), ("fp16", None), ("int8", "int8")]
    assert entries[1].reason == "no half here. Take fp32."


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no faces to compare on"),
        (["--calib", "none"], 2, "none"),
        (["--calib", "{faces}", "--backend", "openvino"], 2, "--backends"),
        (["--calib", "{faces}", "--backends", "tvm"], 4, "no backend 'tvm'"),
        (["--calib", "{faces}", "--engine", "none"], 2, "none cannot be run"),
        (["--calib", "{faces}", "--samples", "x.npz"], 2, "--samples"),
    ],
)
def test_bad_input_ends_it_and_leaves_nothing(
    words: list[str], code: int, said: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["compare", *(word.format(faces=faces) for word in words)]) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_publication_says_where_it_is_from() -> None:
    publications = [*list_published(GENERATORS), *list_published(MODULES)]
    assert len(publications) == 3
    assert all(publication.source and publication.rows for publication in publications)
    assert replace(publications[0], name="x").as_dict()["rows"][0]["figure"] == "memory"
