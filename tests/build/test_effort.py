"""What a build costs is told before it starts, and what is tried is cut to the time, by levels that are recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import Settings

from trt_facefusion.build import cost as cost_module
from trt_facefusion.build import inputs as inputs_module
from trt_facefusion.build.cost import PacedProgress, Timing, count_cores, time_inference
from trt_facefusion.build.effort import (
    FULL,
    LEAST,
    LEVELS,
    REDUCED,
    BuildCost,
    Task,
    choose_affordable,
    count_steps,
    estimate_levels,
)
from trt_facefusion.build.result import BuildResult
from trt_facefusion.build.run import build
from trt_facefusion.cli.app import make_app
from trt_facefusion.errors import BadInputError
from trt_facefusion.types import Precision

INSWAPPER = Task(calibration_faces=38, verification_faces=10, groups=30, macs=174_600_000_000, precisions=2)

tasks = st.builds(
    Task,
    calibration_faces=st.integers(2, 400),
    verification_faces=st.integers(0, 128),
    groups=st.integers(0, 300),
    macs=st.integers(0, 10**12),
    precisions=st.integers(0, 2),
    int8=st.booleans(),
    calibrates=st.booleans(),
    compares_rules=st.booleans(),
    equalises=st.booleans(),
    folds=st.booleans(),
    corrects=st.integers(0, 2),
    searches=st.booleans(),
    stores=st.booleans(),
)


@given(tasks)
def test_every_level_tries_no_more_than_the_one_above(task: Task) -> None:
    full, reduced, least = (count_steps(task, level) for level in LEVELS)
    assert full.keys() >= reduced.keys() >= least.keys()
    for step, count in least.items():
        assert count <= reduced[step] <= full[step]
    assert full.get("judging") == least.get("judging")  # the proof is not cut


@given(tasks, st.floats(1e-4, 100), st.floats(0, 600))
def test_the_most_that_fits_is_tried(task: Task, seconds: float, minutes: float) -> None:
    found = estimate_levels(task, seconds)
    chosen = choose_affordable(found, minutes)
    better = found[: found.index(chosen)]
    assert all(estimate.seconds > 60 * minutes for estimate in better)
    assert chosen.seconds <= 60 * minutes or chosen is found[-1] or not minutes
    assert minutes or chosen.level is FULL


def test_a_level_changes_only_where_the_time_changes_much() -> None:
    full, reduced, least = (sum(count_steps(INSWAPPER, level).values()) for level in LEVELS)
    assert full > 1.7 * reduced > 1.7**2 * least
    inferences = [
        choose_affordable(estimate_levels(INSWAPPER, seconds), 15).level for seconds in (0.05, 0.1, 0.2, 0.4, 0.8)
    ]
    assert inferences == [FULL] * 5
    assert choose_affordable(estimate_levels(INSWAPPER, 1.5), 15).level is REDUCED
    assert choose_affordable(estimate_levels(INSWAPPER, 6), 15).level is LEAST


def test_what_does_not_fit_at_all_is_said_with_what_would_help() -> None:
    found = estimate_levels(INSWAPPER, 60)
    told = BuildCost(choose_affordable(found, 15), found[0], 15).describe()
    assert "does not fit" in told and "--max-eval" in told and "--effort full" in told
    busy = BuildCost(found[0], found[0], 15, slowdown=3.0).describe()
    assert "3.0 times as long" in busy and "--time" not in busy


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(inputs_module, "time_inference", lambda *_: Timing(seconds))


def events_of(settings: object) -> tuple[BuildResult, list[str]]:
    events: list[str] = []
    result = build(settings, lambda stage, *_: events.append(stage), lambda text: events.append(f"note: {text}"))  # type: ignore[arg-type]
    return result, events


@pytest.mark.parametrize("seconds", [0.5, 1000.0])
def test_the_cost_is_told_before_calibrating(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    slow(monkeypatch, seconds)
    _, events = events_of(settings(planner="auto", rule="auto"))
    told = next(index for index, event in enumerate(events) if "on this machine" in event)
    assert "inferences of" in events[told] and "calibration" in events[told] and "plan search" in events[told]
    assert events.index("calibrate") > told
    assert not {"rules", "search", "thresholds"} & set(events[:told])


def test_what_was_cut_is_recorded_and_can_be_asked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(planner="auto", rule="auto")
    slow(monkeypatch, 1000.0)
    result, _ = events_of(asked)
    manifest = result.engines[0].manifest
    assert manifest.gate.passed and manifest.accuracy["faces"] == 8
    for effort in (manifest.inputs.settings["effort"], result.as_dict()["cost"]):
        assert effort["level"] == "least" and effort["asked"] == "auto" and effort["minutes"] == 15
    search = json.loads((result.engines[0].folder / "search.json").read_text())
    assert search["effort"]["level"] == "least" and search["faces"] == LEAST.search_faces
    where = manifest.command.index("--effort")
    assert manifest.command[where + 1] == "least"
    slow(monkeypatch, 1e-3)
    again, _ = events_of(replace(asked, effort="least", force=True))
    assert again.engines[0].manifest.inputs.plan_sha256 == manifest.inputs.plan_sha256
    assert again.engines[0].manifest.inputs.calibration_sha256 == manifest.inputs.calibration_sha256


def test_a_tiny_budget_ends_in_an_engine_that_was_judged(settings: Settings) -> None:
    result, events = events_of(settings(Precision.INT8, Precision.FP16, planner="auto", rule="auto", minutes=1e-6))
    assert result.as_dict()["cost"]["level"] == "least"
    assert [engine.manifest.gate.passed for engine in result.engines] == [True, True]
    assert any("does not fit" in event for event in events)


def test_nothing_is_cut_or_told_of_a_small_network(settings: Settings) -> None:
    result, events = events_of(settings())
    assert result.as_dict()["cost"]["level"] == "full"
    assert not any("on this machine" in event for event in events)
    assert "--effort" not in result.engines[0].manifest.command


def test_effort_and_time_decide_which_engine_is_up_to_date(settings: Settings) -> None:
    build(settings())
    assert build(settings()).engines[0].up_to_date
    assert not build(settings(effort="reduced")).engines[0].up_to_date
    assert not build(settings(minutes=60.0)).engines[0].up_to_date


def test_an_unknown_level_is_refused_before_anything_is_read() -> None:
    with pytest.raises(BadInputError, match="no effort 'some'"):
        make_app()(["build", "--int8", "--calib", "nowhere", "--effort", "some"], standalone_mode=False)


def test_the_time_of_a_sample_does_not_depend_on_the_batch(model: object) -> None:
    import numpy as np

    network = onnx.load(str(model))
    pictures = np.zeros((4, 3, 32, 32), np.float32)
    found = time_inference(network, {"image": pictures}, 4)
    assert 0 < found.each_s < 10 and found.slowdown >= 1 and count_cores() > 0


def test_progress_is_held_against_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(cost_module.time, "monotonic", lambda: now[0])
    stages: list[str] = []
    notes: list[str] = []
    paced = PacedProgress(lambda stage, *_: stages.append(stage), notes.append, 540.0)
    for seconds in (1, 59, 61, 100, 185):
        now[0] = float(seconds)
        paced("search", 3, 24)
    assert len(stages) == 5
    assert notes == ["1 of about 9 minutes: search 3/24", "3 of about 9 minutes: search 3/24"]
