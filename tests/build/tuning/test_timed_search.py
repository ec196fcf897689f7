"""The plan search by time: what is no faster in INT8 stays FP16, few engines are compiled, and each of them once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from tiny import Settings

from trt_facefusion.build import stages as stages_module
from trt_facefusion.build.engine_timer import PredictedTimer
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.plan_only import PlanResult, make_plan
from trt_facefusion.build.run import build
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning import timed_plans
from trt_facefusion.build.tuning.plan_evaluator import PlanEvaluator
from trt_facefusion.build.tuning.plan_timer import EngineTime
from trt_facefusion.build.tuning.search_cache import SUFFIX
from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine
from trt_facefusion.engine.backends.tensorrt_rtx import TensorRtRtx
from trt_facefusion.errors import BadInputError, BuildError, GateError, KernelsUnknownError
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision, Progress, silent

QUICK = {"planner": "auto", "corrections": "none", "max_calib": 12, "search_faces": 4, "backend": "tensorrt-rtx"}
FP16_MS = 0.010


class Timer:
    """Each layer takes 10 us in FP16 and 8 in INT8, but for ``slow`` ones; ``casts`` are paid where types change."""

    how, gpu_title, described = "predicted", "a toy GPU", "toy"
    slow: ClassVar[dict[str, float]] = {}
    casts = 0.0
    refused: ClassVar[frozenset[str]] = frozenset()
    error: ClassVar[type[BuildError]] = BuildError
    compiled: ClassVar[list[frozenset[str]]] = []

    def __init__(self, *_: object) -> None:
        pass

    def compute_key(self, plan: Plan) -> str:
        return f"{plan.names(Precision.INT8)} {self.slow} {self.casts}"

    def time(self, plan: Plan) -> EngineTime:
        layers = {node.name: node.precision for node in plan.nodes if node.macs}
        in_int8 = frozenset(name for name, precision in layers.items() if precision is Precision.INT8)
        assert in_int8 not in self.compiled, "compiled twice"
        self.compiled.append(in_int8)
        if self.refused and self.refused <= in_int8:
            raise self.error("a toy compiler has no kernel for them", "none")
        times = {name: self.slow.get(name, 0.008) if name in in_int8 else FP16_MS for name in layers}
        changes = sum(a != b for a, b in zip([Precision.FP16, *layers.values()], layers.values(), strict=False))
        return EngineTime(0.1 + sum(times.values()) + self.casts * changes, times, 10**6, len(layers))


@pytest.fixture(autouse=True)
def timer(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Timer]]:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(stages_module, "PredictedTimer", Timer)
    monkeypatch.setattr(Timer, "compiled", [])
    yield Timer


def planned(settings: Settings, **changes: object) -> PlanResult:
    return make_plan(settings(**{**QUICK, **changes}))


def test_a_layer_that_is_no_faster_stays_fp16_and_the_front_is_time(
    settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer, "slow", {"head": 0.012, "stem": 0.010})
    plan, search = (found := planned(settings)).plan.by_name(), found.search
    assert plan["head"].reason == "no faster in INT8: predicted 12.0 us against 10.0 us in FP16"
    assert plan["stem"].precision is plan["head"].precision is Precision.FP16
    assert "predicted 8.0 us against 10.0 us in FP16" in plan["block1.conv1"].reason
    assert search is not None and search["objective"] == "time" and {"head", "stem"} <= set(search["excluded"])
    times = [point["predicted_ms"] for point in search["points"]]
    assert times == sorted(times) and len(times) >= 3 and times[-1] == search["times"]["fp16_ms"]
    (chosen,) = [point for point in search["points"] if point["chosen"]]
    assert chosen["predicted_ms"] < search["times"]["fp16_ms"]
    assert frozenset(found.plan.names(Precision.INT8)) in timer.compiled


def test_the_engines_are_bounded_told_and_compiled_once(settings: Settings, timer: type[Timer]) -> None:
    notes: list[str] = []
    first = make_plan(settings(**QUICK, effort="least"), note=notes.append)
    (told,) = [note for note in notes if "engines are compiled" in note]
    assert "plan search by predicted time on a toy GPU: at most 12 engines" in told
    assert first.search is not None and first.search["times"]["builds"] == len(timer.compiled) <= 12
    before = list(timer.compiled)
    again = Stages(read_inputs(open_job(settings(**QUICK, effort="least"))))
    assert again.make_plan(Precision.INT8) == first.plan
    described = again.describe_search()
    assert described is not None and {**described, "effort": None} == {**first.search, "effort": None}
    assert timer.compiled == before


@pytest.mark.parametrize(("changes", "most"), [({}, 6), ({"effort": "full"}, 48), ({"minutes": 1.0}, 4)])
def test_where_compiling_takes_long_fewer_engines_are_compiled_unless_the_effort_was_named(
    settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], most: int
) -> None:
    ticks = itertools.count(0, 30)
    monkeypatch.setattr(timed_plans, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    notes: list[str] = []
    search = Stages(read_inputs(open_job(settings(**QUICK, **changes), note=notes.append))).open_search()
    assert search.times is not None and search.times.most == most
    assert any(f"at most {most} engines are compiled, 30.0 s each" in note for note in notes)
    assert len(timer.compiled) <= most


def test_times_of_another_gpu_or_a_damaged_file_are_not_taken(
    settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = planned(settings)
    (stored,) = (tmp_path / "cache").glob(f"*{SUFFIX}")
    stored.write_text(stored.read_text().replace('"total_ms": 0', '"total_ms": "?', 1))
    monkeypatch.setattr(timer, "compiled", [])
    assert planned(settings).plan == first.plan and timer.compiled
    monkeypatch.setattr(timer, "described", "another GPU")
    monkeypatch.setattr(timer, "compiled", [])
    planned(settings)
    assert timer.compiled


def test_where_int8_is_slower_nothing_is_int8_and_the_build_says_why(
    settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer, "casts", 0.02)
    with pytest.raises(
        GateError, match=r"INT8 does not pay on a toy GPU: predicted .* ms in FP16, and no plan"
    ) as error:
        planned(settings)
    assert "--fp16" in error.value.remedy and "--objective macs" in error.value.remedy
    notes: list[str] = []
    engine = build(settings(**QUICK), note=notes.append).engines[0]
    assert engine.manifest.precision == "fp16" and "INT8 does not pay" in engine.fallback[0].reason
    assert any("falling back int8 -> fp16: int8: INT8 does not pay" in note for note in notes)
    assert planned(settings, objective="macs").plan.names(Precision.INT8)


@pytest.mark.parametrize("refused", [{"block0.conv1", "merge"}, {"block0.conv1"}])
def test_a_plan_that_the_backend_refuses_is_passed_over_told_and_not_tried_again(
    settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch, refused: set[str]
) -> None:
    monkeypatch.setattr(timer, "refused", frozenset(refused))
    notes: list[str] = []
    found = make_plan(settings(**QUICK), note=notes.append)
    in_int8 = frozenset(found.plan.names(Precision.INT8))
    assert in_int8 and not refused <= in_int8 and in_int8 in timer.compiled
    told = [note for note in notes if "is passed over: a toy compiler has no kernel" in note]
    assert found.search is not None and len(told) == found.search["times"]["refused"] >= 1
    assert found.search["times"]["all_int8_ms"] is None
    assert all(0 < point["predicted_ms"] <= found.search["times"]["fp16_ms"] for point in found.search["points"])
    before = list(timer.compiled)
    assert planned(settings).plan == found.plan and timer.compiled == before


def test_where_every_int8_plan_is_refused_the_build_says_so(
    settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Timer):
        def time(self, plan: Plan) -> EngineTime:
            engine = super().time(plan)
            if plan.names(Precision.INT8):
                raise BuildError("a toy compiler has no INT8", "none")
            return engine

    monkeypatch.setattr(stages_module, "PredictedTimer", Refusing)
    with pytest.raises(GateError, match=r"INT8 does not pay .* more were refused\) is faster"):
        planned(settings)


@pytest.mark.parametrize("error", [KernelsUnknownError, BuildError])
def test_where_no_time_can_be_told_auto_searches_by_macs_and_time_by_name_is_an_error(
    settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch, error: type[BuildError]
) -> None:
    def refuse(self: Timer, plan: Plan) -> EngineTime:
        raise error("nothing can be read", "--objective macs")

    monkeypatch.setattr(timer, "time", refuse)
    monkeypatch.setattr(timer, "predict", refuse, raising=False)
    notes: list[str] = []
    found = make_plan(settings(**QUICK, rule="auto"), note=notes.append)
    assert found.search is not None and found.search["objective"] == "macs" and "times" not in found.search
    (told,) = [note for note in notes if "searched by MACs" in note]
    assert told == "warning: the plan is searched by MACs, not by time: nothing can be read"
    with pytest.raises(error):
        planned(settings, objective="time")


def test_an_engine_is_compiled_once_for_its_kernels_and_counted_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages_module, "PredictedTimer", PredictedTimer)
    built: list[bytes] = []
    real = TensorRtRtx.build

    def count(self: TensorRtRtx, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        built.append(request.model)
        return real(self, request, progress)

    monkeypatch.setattr(TensorRtRtx, "build", count)
    stages = Stages(read_inputs(open_job(settings(**QUICK, effort="least"))))
    cost = stages.inputs.cost.estimate
    assert len(built) == 1 and cost.engine_s > 0 and cost.engines >= 12
    built.clear()
    search = stages.open_search()
    assert search.times is not None and len(built) == len(set(built)) == search.times.describe()["builds"]
    stages.compile_kernels(stages.lower(stages.make_plan(Precision.FP16)))
    assert len(built) == len(set(built)) <= cost.engines


def test_repairs_walk_the_same_front(settings: Settings, timer: type[Timer], monkeypatch: pytest.MonkeyPatch) -> None:
    real = PlanEvaluator.__call__

    def kind(self: PlanEvaluator, plans: list[frozenset[int]]) -> list[dict[str, float | None]]:
        return [{key: None if value is None else value / 8 for key, value in f.items()} for f in real(self, plans)]

    monkeypatch.setattr(PlanEvaluator, "__call__", kind)
    whole = planned(settings, limits={"max_ssim_drop": 1.0}).accuracy.ssim_drop
    found = planned(settings, limits={"max_ssim_drop": whole / 2}, repairs=6)
    assert found.repairs > 0 and found.accuracy.ssim_drop <= whole / 2 and found.search is not None
    (chosen,) = [point for point in found.search["points"] if point["chosen"]]
    assert frozenset(found.plan.names(Precision.INT8)) in timer.compiled
    assert chosen["predicted_ms"] < found.search["times"]["fp16_ms"]


def test_time_is_refused_where_no_kernels_tell_it_and_auto_says_so(settings: Settings) -> None:
    with pytest.raises(BadInputError, match="--objective time: onnxruntime has no kernels") as error:
        open_job(settings(objective="time"))
    assert "--objective macs" in error.value.remedy
    notes: list[str] = []
    job = open_job(settings(**{**QUICK, "backend": "onnxruntime"}), note=notes.append)
    search = Stages(read_inputs(job)).open_search()
    assert search.objective.name == "macs"
    assert any(note.startswith("plan search by macs: onnxruntime has no kernels") for note in notes)
