"""A new metric is its class and one line in the registry: then it is measured, stored, shown, limited and obeyed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import typer
from tiny import Settings
from typer.testing import CliRunner

from trt_facefusion.build.plan_only import make_plan
from trt_facefusion.build.run import build
from trt_facefusion.cli.build_table import show_engines
from trt_facefusion.cli.limit_options import with_limits
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.metric import Figure, Limit, Metric, PerFace, Pictures, mean
from trt_facefusion.report.page import render_page
from trt_facefusion.types import Precision


class ColourError(Metric):
    """Mean absolute difference of the mean colours, as a share of their range."""

    name = "colour_error"
    figures = (
        Figure(
            "colour_error",
            "colour error",
            mean,
            limit=Limit("max_colour_error", "the mean colour error", "INT8: colour error at most.", least=0.0),
        ),
    )

    def per_face(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """The difference of the mean colours of each face."""
        colours = reference.mean(axis=(1, 2)) - candidate.mean(axis=(1, 2))
        return np.abs(colours).mean(axis=1).astype(np.float64)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, ColourError))


def test_it_is_measured_stored_and_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(monkeypatch)
    result = build(settings(Precision.INT8))
    (engine,) = result.engines
    value = engine.manifest.accuracy["colour_error"]
    assert 0 < value < 0.1
    assert result.as_dict()["engines"][0]["accuracy"]["colour_error"] == value
    assert engine.manifest.judged.figures["colour_error"] == value
    show_engines(result)
    assert f"{value:.4f}" in next(line for line in capsys.readouterr().out.splitlines() if "colour error" in line)
    assert result.record is not None
    assert f"<dt>colour error</dt><dd>{value:.4f}</dd>" in render_page(result.record)


def test_its_limit_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    received = {}

    @with_limits
    def command(*, limits: Mapping[str, float]) -> None:
        received.update(limits)

    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    assert "--max-colour-error" in shown and "INT8: colour error at most." in shown and "--max-lpips" in shown
    assert CliRunner().invoke(app, ["--max-colour-error", "0.5"]).exit_code == 0
    assert received == {"max_colour_error": 0.5}
    assert CliRunner().invoke(app, ["--max-colour-error", "-1"]).exit_code == 2


def test_the_gate_obeys_its_limit_and_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    (engine,) = build(settings(Precision.INT8, limits={"max_colour_error": 1e-9}, repairs=0)).engines
    assert engine.manifest.precision == "fp16"
    assert "the mean colour error is" in engine.fallback[0].reason
    assert "at most 1e-09 is allowed" in engine.fallback[0].reason


def test_the_search_obeys_its_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    searched = {"planner": "auto", "corrections": "none", "max_calib": 12, "search_faces": 4}
    limits = {"max_ssim_drop": 0.1}
    free = make_plan(settings(**searched, limits=limits))
    limits["max_colour_error"] = free.accuracy["colour_error"] / 2
    held = make_plan(settings(**searched, limits=limits))
    assert held.accuracy["colour_error"] <= limits["max_colour_error"]
    assert held.plan.macs_share()["int8"] < free.plan.macs_share()["int8"]
    assert held.search is not None and free.search is not None
    assert held.search["budget"]["max_colour_error"] == limits["max_colour_error"]
    assert all("colour_error" in point for point in held.search["points"])
    assert "colour_error" not in free.search["points"][0], "what no limit speaks of costs the search nothing"


def test_engines_from_before_it_are_up_to_date(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(settings(Precision.FP32)).engines[0]
    register(monkeypatch)
    after = build(settings(Precision.FP32))
    assert after.engines[0].up_to_date and after.engines[0].folder == before.folder
    assert after.as_dict()["engines"][0]["accuracy"]["colour_error"] is None
    show_engines(after)


def test_manifests_of_later_metrics_are_read(settings: Settings, tmp_path: Path) -> None:
    folder = build(settings(Precision.FP32)).engines[0].folder
    document = json.loads((folder / "manifest.json").read_text())
    document["accuracy"]["a_later_figure"] = 0.5
    assert Manifest.from_json(json.dumps(document)).judged.figures["a_later_figure"] == 0.5
