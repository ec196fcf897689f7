"""`trt-ff build`: the JSON that programs read, the table that people read, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from workplace import Outcome, Workplace

from trt_facefusion.build.run import build as real_build

Command = Callable[[list[str]], Outcome]

IMPOSSIBLE = {"max_ssim_drop": 0, "repairs": 0}
NUMBER = (int, float)
NUMBER_OR_NONE = (int, float, type(None))
SCHEMA = {
    "schema": int,
    "model": str,
    "seconds": NUMBER,
    "cost": {
        "level": str,
        "asked": str,
        "minutes": NUMBER,
        "inferences": dict,
        "inferences_full": dict,
        "seconds_an_inference": NUMBER,
        "engines": NUMBER,
        "seconds_an_engine": NUMBER,
        "seconds_estimated": NUMBER,
        "seconds_estimated_full": NUMBER,
    },
    "engines": [
        {
            "precision": str,
            "requested": str,
            "backend": str,
            "backend_version": str,
            "target": str,
            "path": str,
            "engine_bytes": int,
            "weights_bytes": int,
            "macs_share": {"int8": NUMBER, "fp16": NUMBER, "fp32": NUMBER},
            "int8_kernels": {"planned": int, "real": int, "missing": [str]},
            "accuracy": {
                "faces": int,
                "ssim": NUMBER,
                "ssim_drop": NUMBER,
                "ssim_drop_worst": NUMBER,
                "psnr_db": NUMBER,
                "perceptual": NUMBER_OR_NONE,  # one of the three judges
                "identity_cosine": NUMBER,
                "st_lpips": NUMBER_OR_NONE,
                "lpips": NUMBER_OR_NONE,
                "reference": str,
                "batch": int,
                "prepared": {
                    "faces": int,
                    "ssim_drop": NUMBER,
                    "ssim_drop_worst": NUMBER,
                    "max_difference": NUMBER,
                    "limits": {"ssim_drop": NUMBER, "max_difference": NUMBER},
                },
                "judged_by": dict,
            },
            "passed": bool,
            "fallback": [{"from": str, "to": str, "reason": str}],
            "up_to_date": bool,
        }
    ],
    "predicted": type(None),  # of engines for a processor
}


def check(value: Any, schema: Any, where: str = "$") -> None:
    """Exactly these keys, with values of exactly these types; no cost where nothing had to be built."""
    if where == "$.cost" and value is None:
        return
    if isinstance(schema, dict):
        assert isinstance(value, dict) and list(value) == list(schema), where
        for key, inner in schema.items():
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for index, item in enumerate(value):
            check(item, schema[0], f"{where}[{index}]")
    else:
        assert isinstance(value, schema), f"{where}: {value!r}"
        assert schema is bool or not isinstance(value, bool), where


def test_the_json_is_one_object_of_the_documented_form(command: Command, place: Workplace) -> None:
    outcome = command(place.options(fp16=True, fp32=True, json=True))
    assert outcome.code == 0
    check(outcome.json, SCHEMA)
    engines = outcome.json["engines"]
    assert [e["precision"] for e in engines] == [e["requested"] for e in engines] == ["int8", "fp16", "fp32"]
    for engine in engines:
        assert sum(engine["macs_share"].values()) == pytest.approx(1)
        assert engine["passed"] and engine["fallback"] == [] and not engine["up_to_date"]
        assert (engine["backend"], engine["target"]) == ("onnxruntime", "cpu")
        assert engine["accuracy"]["ssim"] == pytest.approx(1 - engine["accuracy"]["ssim_drop"])
    assert engines[0]["macs_share"]["int8"] > 0.8
    assert engines[0]["weights_bytes"] < engines[1]["weights_bytes"] < engines[2]["weights_bytes"]
    again = command(place.options(fp16=True, fp32=True, json=True))
    check(again.json, SCHEMA)
    assert outcome.json["cost"]["level"] == "full" and again.json["cost"] is None
    assert all(engine["up_to_date"] for engine in again.json["engines"])


def test_int8_that_falls_back_exits_with_3_now_and_later_and_fp16_with_0(command: Command, place: Workplace) -> None:
    outcomes = [command(place.options(json=True, **IMPOSSIBLE)) for _ in range(2)]
    for outcome, known in zip(outcomes, (False, True), strict=True):
        assert outcome.code == 3
        check(outcome.json, SCHEMA)
        (engine,) = outcome.json["engines"]
        assert (engine["requested"], engine["precision"], engine["passed"]) == ("int8", "fp16", True)
        assert engine["up_to_date"] is known
        (step,) = engine["fallback"]
        assert (step["from"], step["to"]) == ("int8", "fp16") and "SSIM drop" in step["reason"]
    fp16 = command(place.options(int8=None, fp16=True, json=True, **IMPOSSIBLE))
    assert fp16.code == 0 and fp16.json["engines"][0]["fallback"] == []


def test_the_table_shows_each_engine_and_what_became_of_it(command: Command, place: Workplace) -> None:
    outcome = command(place.options(fp32=True, **IMPOSSIBLE))
    assert outcome.code == 3
    for text in ("tiny on cpu", "int8 -> fp16", "fp32", "fell back", "passed", "PSNR, dB", "exact", "MACs in int8"):
        assert text in outcome.out
    assert "  fell back int8 -> fp16: int8: not one layer fits into the budget in INT8" in outcome.out
    paths = [line for line in outcome.out.splitlines() if str(place.output) in line]
    assert paths[0].startswith(f"int8 -> fp16: {place.output}") and len(paths) == 2


def test_progress_and_messages_keep_off_stdout(command: Command, place: Workplace) -> None:
    outcome = command(place.options(json=True, rule="auto"))
    json.loads(outcome.out)
    for stage in ("reading the model", "calibration faces", "calibrating", "comparing calibration rules", "storing"):
        assert f"· {stage}\n" in outcome.err
    assert "! warning: " in outcome.err and "· calibration " in outcome.err


def test_messages_are_printed_letter_by_letter(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(settings: Any, progress: Any, note: Callable[[str], None]) -> Any:
        note(r"skipped [red]a\[b].jpg: not [/] a photo")
        note("skipped \x1b[31mred.jpg")
        return real_build(settings, progress, note)

    monkeypatch.setattr("trt_facefusion.cli.build.build", noted)
    outcome = command(place.options())
    assert r"· skipped [red]a\[b].jpg: not [/] a photo" in outcome.err
    assert r"· skipped \x1b[31mred.jpg" in outcome.err and "\x1b" not in outcome.err


def test_a_real_int8_engine_for_sm86(command: Command, place: Workplace) -> None:
    pytest.importorskip("tensorrt_rtx")
    outcome = command(place.options(backend=None, target="sm86", objective="macs", strict=True, json=True))
    assert outcome.code == 0, outcome.err
    check({**outcome.json, "predicted": None}, SCHEMA)
    predicted = outcome.json["predicted"]
    assert predicted["what"] == "predicted by a model, not measured" and predicted["gpu"] == "a10g"
    assert all(predicted["times"][precision]["total_ms"] > 0 for precision in ("int8", "fp16"))
    (engine,) = outcome.json["engines"]
    assert (engine["backend"], engine["target"]) == ("tensorrt-rtx", "sm86")
    assert engine["int8_kernels"] == {"planned": 7, "real": 7, "missing": []}
