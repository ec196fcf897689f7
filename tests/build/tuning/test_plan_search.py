"""The plan search of a build: what it promises of the plan, of the kernels, of what is kept and of what is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
from tiny import Settings

from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.plan_only import PlanResult, make_plan
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning.search_cache import SUFFIX
from trt_facefusion.engine.backends.base import BuiltEngine
from trt_facefusion.errors import GateError
from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.quantization.precision.search import Figures
from trt_facefusion.types import Precision

PLAIN = {"planner": "auto", "corrections": "none", "max_calib": 12, "search_faces": 4}


def planned(settings: Settings, **changes: object) -> PlanResult:
    return make_plan(settings(**{**PLAIN, **changes}))


@pytest.mark.parametrize("limit", [0.002, 0.01, 0.1])
def test_the_verified_plan_keeps_the_budget_and_the_search_shows_it(settings: Settings, limit: float) -> None:
    found = planned(settings, limits={"max_ssim_drop": limit})
    assert found.accuracy.ssim_drop <= limit and found.plan.names(Precision.INT8)
    search = found.search
    assert search is not None
    (chosen,) = [point for point in search["points"] if point["chosen"]]
    raised = {n.name for n in found.plan.nodes if n.reason.startswith("searched") and n.precision is Precision.FP16}
    assert set(chosen["raised"]) == raised and chosen["ssim_drop"] <= limit
    assert chosen["int8_macs_share"] == pytest.approx(found.plan.macs_share()["int8"])
    assert len(search["points"]) >= 3 and search["points"][-1]["int8"] == 0


def test_a_wider_budget_buys_no_less_int8(settings: Settings) -> None:
    shares = [
        planned(settings, limits={"max_ssim_drop": limit}).plan.macs_share()["int8"] for limit in (0.002, 0.02, 1.0)
    ]
    assert shares == sorted(shares) and shares[0] < shares[2]


@pytest.mark.parametrize("limit", [0.002, 0.02])
def test_layers_whose_results_are_added_move_together(settings: Settings, tmp_path: Path, limit: float) -> None:
    model = tiny.save(tiny.generator(branches=True), tmp_path / "branches.onnx")
    found = planned(settings, onnx=model, limits={"max_ssim_drop": limit})
    left, right = (found.plan.by_name()[name] for name in ("left.conv", "right.conv"))
    assert left.precision == right.precision and "are added by branches.add" in left.reason
    assert found.search is not None
    for point in found.search["points"]:
        assert ("left.conv" in point["raised"]) == ("right.conv" in point["raised"])


def test_measurements_are_made_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(settings)
    monkeypatch.setattr("onnxruntime.InferenceSession.run", _refused(monkeypatch))
    stages = Stages(read_inputs(open_job(settings(**PLAIN))))
    assert stages.make_plan(Precision.INT8) == first.plan
    assert stages.describe_search() == first.search


def _refused(monkeypatch: pytest.MonkeyPatch) -> object:
    """Refuses to run the switched model, and nothing else."""
    import onnxruntime as ort

    from trt_facefusion.quantization.lowering.switch import SWITCHES

    real = ort.InferenceSession.run

    def run(self: ort.InferenceSession, outputs: object, feeds: dict[str, object], *rest: object) -> object:
        assert SWITCHES not in feeds, "a plan was measured again"
        return real(self, outputs, feeds, *rest)

    return run


@pytest.mark.parametrize("changed", ["faces", "model", "damaged"])
def test_measurements_of_something_else_are_not_taken(settings: Settings, tmp_path: Path, changed: str) -> None:
    first = planned(settings)
    assert first.search is not None
    other: dict[str, object] = {}
    if changed == "faces":
        other["calib"] = tiny.write_pictures(tmp_path / "others", range(40, 80))
    if changed == "model":
        path = tmp_path / "tiny.onnx"
        tiny.save(tiny.generator(seed=1), path)
        other["onnx"] = path
    if changed == "damaged":
        (stored,) = (tmp_path / "cache").glob(f"*{SUFFIX}")
        stored.write_text(stored.read_text().replace('"plans": [[', '"plans": [["?",', 1))
    again = planned(settings, **other)
    assert again.search is not None
    fresh = planned(settings, **other, cache=tmp_path / "empty")
    assert again.search["points"] == fresh.search["points"]  # type: ignore[index]
    assert (again.search["points"] == first.search["points"]) == (changed == "damaged")


def test_a_plan_that_fails_on_the_verification_faces_is_replaced_by_the_next_of_the_front(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measuring faces are made far too kind: together the layers cost what no measurement has shown."""
    from trt_facefusion.build.tuning.plan_evaluator import PlanEvaluator

    real = PlanEvaluator.__call__

    def kind(self: PlanEvaluator, plans: Sequence[GroupSet]) -> list[Figures]:
        return [{key: None if value is None else value / 8 for key, value in f.items()} for f in real(self, plans)]

    monkeypatch.setattr(PlanEvaluator, "__call__", kind)
    whole = planned(settings, limits={"max_ssim_drop": 1.0}).accuracy.ssim_drop
    limit = whole / 2
    found = planned(settings, limits={"max_ssim_drop": limit}, repairs=6)
    assert found.repairs > 0 and found.accuracy.ssim_drop <= limit and found.plan.names(Precision.INT8)
    with pytest.raises(GateError, match="SSIM drop"):
        planned(settings, limits={"max_ssim_drop": limit}, repairs=0)


def test_nothing_is_left_where_no_layer_fits(settings: Settings) -> None:
    with pytest.raises(GateError, match="not one layer fits into the budget in INT8: with the cheapest") as error:
        planned(settings, limits={"max_ssim_drop": 0.0})
    assert "--max-ssim-drop" in error.value.remedy


def test_a_layer_that_gets_no_int8_kernel_is_not_quantised(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked before the search: what the backend runs in float anyway is no candidate."""
    pytest.importorskip("tensorrt_rtx")
    job = open_job(settings(**PLAIN, backend="tensorrt-rtx", target="sm86", objective="macs"))
    maker = type(job.selection.backend)
    real = maker.build

    def refuses(self: object, *args: object, **kwargs: object) -> BuiltEngine:
        engine: BuiltEngine = real(self, *args, **kwargs)  # type: ignore[arg-type]
        kernels = [kernel for kernel in engine.kernels if "block0.conv1" not in repr(kernel)]
        return engine.__class__(**{**engine.__dict__, "kernels": type(engine.kernels)(kernels)})

    monkeypatch.setattr(maker, "build", refuses)
    stages = Stages(read_inputs(job))
    plan = stages.make_plan(Precision.INT8)
    assert plan.by_name()["block0.conv1"].precision is Precision.FP16
    assert "builds no INT8 kernel" in plan.by_name()["block0.conv1"].reason
    assert plan.by_name()["block1.conv1"].precision is Precision.INT8
    assert list(stages.describe_search()["excluded"]) == ["block0.conv1"]  # type: ignore[index]


def test_the_cost_is_told_before_and_kept(settings: Settings) -> None:
    notes: list[str] = []
    found = make_plan(settings(**PLAIN), note=notes.append)
    (told,) = [note for note in notes if note.startswith("plan search: ")]
    most = int(told.split(" inferences")[0].split(", ")[-1])
    assert found.search is not None and found.search["passes"] <= most + 4  # the reference pictures of four faces
    assert found.search["plans"] <= int(told.split("at most ")[1].split(" plans")[0])
