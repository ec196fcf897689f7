"""`trt-ff plan`: the front in a terminal and as JSON, the files that it leaves, and what happens when it is stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workplace import Outcome, Workplace

from trt_facefusion.build.plan_only import PlanResult
from trt_facefusion.build.plan_only import make_plan as real_make_plan
from trt_facefusion.build.tuning.search_cache import SUFFIX
from trt_facefusion.cli import console, plan_table
from trt_facefusion.cli import plan as plan_command
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import find_perceptual

Command = Callable[[list[str]], Outcome]


def words(place: Workplace, *more: str) -> list[str]:
    plain = place.options(int8=None, output=place.root / "plan.yaml", reports=None, corrections="none")
    return ["plan", *plain[1:], "--search-faces", "4", "--max-calib", "12", *more]


def test_the_front_is_shown_and_the_plan_builds(command: Command, place: Workplace) -> None:
    outcome = command(words(place))
    assert outcome.code == 0, outcome.err
    for text in ("plans measured on 4 calibration faces", "MACs in INT8", "worst face", "layers raised", "\n > "):
        assert text in outcome.out
    assert "verification faces the SSIM drop is" in outcome.out
    assert "plan search: 7 layers in" in outcome.err and "inferences:" in outcome.err
    search = json.loads((place.root / "search.json").read_text())
    assert sum(point["chosen"] for point in search["points"]) == 1
    assert (place.root / "search.svg").read_text().startswith("<svg")
    built = command(place.options(plan=place.root / "plan.yaml", json=True))
    assert built.code == 0 and built.json["engines"][0]["precision"] == "int8"


def test_json_is_one_object_and_asking_again_costs_no_inference(command: Command, place: Workplace) -> None:
    first, again = (command(words(place, "--json")) for _ in range(2))
    assert first.json["search"] == again.json["search"]
    assert first.json["search"]["passes"] > 0 and "plans were measured before" in again.err
    assert first.json["macs_share"]["int8"] > 0.9
    assert (first.json["schema"], first.json["path"]) == (1, str(place.root / "plan.yaml"))


def test_an_edited_plan_is_replaced_only_with_force(command: Command, place: Workplace) -> None:
    assert command(words(place)).code == 0 == command(words(place)).code  # as it was left, it may be replaced
    plan = place.root / "plan.yaml"
    written = plan.read_text()
    edited = written.replace("precision: int8", "precision: fp16", 1)
    for text, search in ((edited, True), (written, False)):
        plan.write_text(text)
        if not search:
            (place.root / "search.json").unlink()
        outcome = command(words(place, "--json"))
        assert outcome.code == 2 and "may have been edited" in outcome.json["error"]["message"]
        assert "--force" in outcome.json["error"]["remedy"] and plan.read_text() == text
    assert command(words(place, "--force")).code == 0 and plan.read_text() == written


def test_limits_of_perception_and_identity_are_measured_and_shown(command: Command, place: Workplace) -> None:
    outcome = command(words(place, "--max-lpips", "0.5", "--min-identity", "-1"))
    assert outcome.code == 0, outcome.err
    head = next(line for line in outcome.out.splitlines() if "MACs in INT8" in line)
    assert find_perceptual(Tools())[1].short_name in head and "identity" in head


def test_what_no_plan_can_keep_is_told(command: Command, place: Workplace) -> None:
    outcome = command(words(place, "--max-ssim-drop", "0"))
    assert outcome.code == 3
    assert "error: int8: not one layer fits into the budget" in outcome.err and "what to do: " in outcome.err
    assert not (place.root / "plan.yaml").exists()


@pytest.mark.parametrize("stage", ["search", "verify int8"])
def test_ctrl_c_leaves_nothing_half_written_and_keeps_what_was_measured(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def interrupted(settings: Any, progress: Any, note: Any) -> PlanResult:
        def report(name: str, done: int, total: int) -> None:
            progress(name, done, total)
            if name == stage:
                signal.raise_signal(signal.SIGINT)

        return real_make_plan(settings, report, note)

    monkeypatch.setattr(plan_command, "make_plan", interrupted)
    assert command(words(place)).code == 130
    left = [Path(name) for name in place.left_behind()]
    assert not [name for name in left if name.name.startswith(".")] and not (place.root / "plan.yaml").exists()
    (kept,) = [name for name in left if name.name.endswith(SUFFIX)]
    assert json.loads((place.root / kept).read_text())["int8"]["plans"]
    monkeypatch.setattr(plan_command, "make_plan", real_make_plan)
    again = command(words(place))
    assert again.code == 0 and "were measured before" in again.err


def test_a_front_by_time_shows_predicted_times_and_what_compiling_took(capsys: pytest.CaptureFixture[str]) -> None:
    point = {"int8_macs_share": 0.5, "weights_bytes": 4e6, "ssim_drop": 0.002, "ssim_drop_worst": 0.004, "raised": []}
    times = {"what": "times are predicted by a model", "gpu": "NVIDIA A10G", "fp16_ms": 0.2073, "all_int8_ms": 0.2081}
    search = {
        "plans": 9,
        "faces": 4,
        "passes": 36,
        "seconds": 2.0,
        "points": [{**point, "predicted_ms": 0.1954, "chosen": True}],
        "times": {**times, "fastest_ms": 0.1954, "builds": 24, "seconds": 31.0},
    }
    console.show(plan_table.tabulate_front(search))
    console.line(plan_table.describe_times(search["times"]))
    shown = " ".join(capsys.readouterr().out.split())
    assert "predicted MACs in INT8 weights SSIM drop worst face" in shown and "0.1954 ms 50.0% 4.00 MB 0.200%" in shown
    assert "times are predicted by a model, on NVIDIA A10G: 0.2073 ms in FP16, 0.2081 ms with all candidates" in shown
    assert "24 engines compiled in 31 s" in shown
