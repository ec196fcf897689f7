"""When the gate says no: layers are raised, then the precision is; every step is on record, and never a stale one."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import yaml
from tiny import Settings

from trt_facefusion.build import delivery
from trt_facefusion.build.result import BuildResult
from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.errors import BuildError, GateError
from trt_facefusion.types import Precision

INT8, FP16, FP32 = Precision.INT8, Precision.FP16, Precision.FP32
IMPOSSIBLE = {"limits": {"max_ssim_drop": 0.0}, "repairs": 0}


def states(result: BuildResult) -> list[tuple[str, str, bool]]:
    """(asked, delivered, up to date) for each engine."""
    return [(e.requested.value, e.manifest.precision, e.up_to_date) for e in result.engines]


def test_int8_that_is_not_right_becomes_fp16_with_the_reason(settings: Settings) -> None:
    notes: list[str] = []
    result = build(settings(INT8, **IMPOSSIBLE), note=notes.append)
    engine = result.engines[0]
    assert states(result) == [("int8", "fp16", False)] and not engine.as_asked
    (step,) = engine.fallback
    assert (step.from_, step.to) == ("int8", "fp16") and "at most 0 is allowed" in step.reason
    assert engine.manifest.fallback == engine.fallback and engine.manifest.gate.passed
    assert any(note.startswith("warning: falling back int8 -> fp16: ") for note in notes)
    assert any(note.startswith("to keep int8: ") and "--max-ssim-drop" in note for note in notes)


def test_asking_again_gives_the_same_answer_and_fp16_itself_is_as_asked(settings: Settings) -> None:
    first = build(settings(INT8, **IMPOSSIBLE)).engines[0]
    again = build(settings(INT8, **IMPOSSIBLE))
    assert states(again) == [("int8", "fp16", True)]
    assert again.engines[0].fallback == first.fallback and not again.engines[0].as_asked
    plain = build(settings(FP16, **IMPOSSIBLE))
    assert states(plain) == [("fp16", "fp16", True)] and plain.engines[0].as_asked


def test_a_fall_back_under_one_gate_is_no_answer_under_another(settings: Settings) -> None:
    build(settings(INT8, **IMPOSSIBLE))
    assert states(build(settings(INT8, repairs=0))) == [("int8", "int8", False)]
    assert states(build(settings(INT8, repairs=0))) == [("int8", "int8", True)]


def test_what_int8_fell_back_to_is_not_called_up_to_date_for_fp16(settings: Settings) -> None:
    asked = settings(INT8, FP16, **IMPOSSIBLE)
    assert states(build(asked)) == [("int8", "fp16", False), ("fp16", "fp16", False)]
    assert states(build(asked)) == [("int8", "fp16", True), ("fp16", "fp16", True)]


def test_a_stored_fp16_engine_serves_an_int8_that_fails(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    build(settings(FP16, **IMPOSSIBLE))
    made: list[Precision] = []
    make = delivery.build_precision
    monkeypatch.setattr(delivery, "build_precision", lambda s, v, p: made.append(p) or make(s, v, p))
    assert states(build(settings(INT8, **IMPOSSIBLE))) == [("int8", "fp16", False)]
    assert made == [INT8]
    assert states(build(settings(INT8, **IMPOSSIBLE))) == [("int8", "fp16", True)]
    assert states(build(settings(FP16, **IMPOSSIBLE))) == [("fp16", "fp16", True)]


def test_force_builds_every_step_anew(settings: Settings) -> None:
    asked = settings(INT8, FP16, force=True, **IMPOSSIBLE)
    assert states(build(asked)) == states(build(asked)) == [("int8", "fp16", False), ("fp16", "fp16", False)]


def test_a_chain_down_to_fp32(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attempt_module_gates(), FP16, -1.0)
    asked = settings(INT8, FP16, **IMPOSSIBLE)
    result = build(asked)
    assert states(result) == [("int8", "fp32", False), ("fp16", "fp32", False)]
    assert [step.from_ for step in result.engines[0].fallback] == ["int8", "fp16"]
    assert [step.from_ for step in result.engines[1].fallback] == ["fp16"]
    assert states(build(asked)) == [("int8", "fp32", True), ("fp16", "fp32", True)]


def attempt_module_gates() -> dict[Precision, float]:
    from trt_facefusion.evaluation.accuracy import gate

    return gate.MAX_SSIM_DROP


def test_nothing_that_is_right_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(attempt_module_gates(), FP16, -1.0)
    monkeypatch.setitem(attempt_module_gates(), FP32, -1.0)
    with pytest.raises(GateError, match="no engine of tiny is right: fp32: the mean SSIM drop"):
        build(settings(INT8, **IMPOSSIBLE))
    assert not list((tmp_path / "engines").glob("*/*/manifest.json"))


def test_an_engine_maker_that_refuses_int8_only(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_int8(monkeypatch)
    result = build(settings(INT8))
    assert states(result) == [("int8", "fp16", False)]
    assert result.engines[0].fallback[0].reason == "no tactic for block0.conv1"


def test_strict_does_not_fall_back_when_the_engine_maker_refuses(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_int8(monkeypatch)
    build(settings(INT8))
    with pytest.raises(BuildError, match="no tactic"):
        build(settings(INT8, strict=True))


def refuse_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_facefusion.engine.backends.onnxruntime import OnnxRuntime

    real = OnnxRuntime.build

    def build_float_only(self, request, progress):
        if b"QuantizeLinear" in request.model:
            raise BuildError("no tactic for block0.conv1", "keep it in fp16")
        return real(self, request, progress)

    monkeypatch.setattr(OnnxRuntime, "build", build_float_only)


# Repair


@pytest.fixture
def slightly_missed(settings: Settings) -> BuildSettings:
    """A gate that INT8 misses by a third of its drop."""
    drop = build(settings(INT8)).engines[0].manifest.accuracy["ssim_drop"]
    return settings(INT8, limits={"max_ssim_drop": drop * 0.67})


def test_repair_raises_the_worst_nodes_and_says_why(slightly_missed: BuildSettings) -> None:
    notes: list[str] = []
    (engine,) = build(slightly_missed, note=notes.append).engines
    assert engine.as_asked and engine.manifest.precision == "int8"
    assert engine.manifest.accuracy["ssim_drop"] <= slightly_missed.limits["max_ssim_drop"]
    repairs = engine.manifest.inputs.settings["repairs"]
    raised = [name for repair in repairs for name in repair["nodes"]]
    assert 0 < len(raised) < 5 and repairs[0]["ssim_drop_before"] > slightly_missed.limits["max_ssim_drop"]
    nodes = {node["name"]: node for node in yaml.safe_load((engine.folder / "plan.yaml").read_text())["nodes"]}
    for name in raised:
        assert nodes[name]["precision"] == "fp16" and nodes[name]["reason"].startswith(
            "searched: alone in INT8 it costs"
        )
    assert engine.manifest.int8_kernels.planned == 5 - len(raised)
    assert any(f"Raising {len(repairs[0]['nodes'])} nodes to fp16" in note for note in notes)


def test_a_repaired_plan_passes_when_it_is_handed_back(
    slightly_missed: BuildSettings, settings, tmp_path: Path
) -> None:
    (engine,) = build(slightly_missed).engines
    plan = tmp_path / "plan.yaml"
    plan.write_bytes((engine.folder / "plan.yaml").read_bytes())
    again = build(settings(INT8, plan=plan, repairs=0, limits=slightly_missed.limits)).engines[0]
    assert again.as_asked and again.manifest.accuracy == engine.manifest.accuracy
    assert yaml.safe_load((again.folder / "plan.yaml").read_text()) == yaml.safe_load(plan.read_text())


def test_an_engine_without_int8_is_never_called_int8(settings: Settings, tmp_path: Path) -> None:
    result = build(settings(INT8, limits={"max_ssim_drop": 0.0}, repairs=10))
    assert states(result) == [("int8", "fp16", False)]
    assert "SSIM drop" in result.engines[0].fallback[0].reason
    plan = tmp_path / "plan.yaml"
    plan.write_bytes((result.engines[0].folder / "plan.yaml").read_bytes())
    result = build(settings(INT8, plan=plan))
    assert states(result) == [("int8", "fp16", False)]
    assert result.engines[0].fallback[0].reason == "int8: the plan has no node in int8"


def test_auto_tries_every_rule_and_records_it(settings: Settings, tmp_path: Path) -> None:
    record = build(settings(INT8, rule="auto")).engines[0].manifest.inputs.settings["calibration"]
    best = min(record["ssim_drop"], key=record["ssim_drop"].get)
    assert best == record["rule"] + (", equalised" if record["equalised"] else "")
    assert len(record["ssim_drop"]) == 6  # five rules, and the best of them without equalisation


def test_a_cache_that_a_build_wrote_can_be_named(settings: Settings, tmp_path: Path) -> None:
    first = build(settings(INT8)).engines[0]
    table = next((tmp_path / "cache").glob("*.cache"))
    named = build(settings(INT8, table=table, cache=tmp_path / "unused")).engines[0]
    assert not named.up_to_date and named.manifest.accuracy["ssim_drop"] == pytest.approx(
        first.manifest.accuracy["ssim_drop"], rel=1e-3
    )
    assert not (tmp_path / "unused").exists()


def test_a_cache_of_another_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    build(settings(INT8))
    table = next((tmp_path / "cache").glob("*.cache"))
    other = tiny.save(tiny.generator(seed=9), tmp_path / "other.onnx")
    with pytest.raises(Exception, match="another model"):
        build(settings(INT8, onnx=other, table=table))
