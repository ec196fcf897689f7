"""`trt-ff estimate`: predicted times of stored engines, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from workplace import Outcome, Workplace

from trt_facefusion.cli.main import run
from trt_facefusion.inference import embedders as embedders_module

Command = Callable[[list[str]], Outcome]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_faces: Path) -> dict[str, Path]:
    """Engines for an A10G in three precisions, and one for the CPU, which no test changes."""
    pytest.importorskip("tensorrt_rtx")
    place = Workplace(tmp_path_factory.mktemp("built"), tiny_model, tiny_faces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        assert run(place.options(fp16=True, fp32=True, backend="tensorrt-rtx", plan="rules", no_report=True)) == 0
        assert run(place.options(plan="rules", no_report=True)) == 0
    folders = place.output.glob("*/*-*")
    return {folder.name.partition("-")[0] + ("-cpu" if "cpu" in folder.name else ""): folder for folder in folders}


def test_precisions_stand_side_by_side_and_are_said_to_be_predicted(
    command: Command, engines: dict[str, Path], tmp_path: Path
) -> None:
    outcome = command(["estimate", str(engines["int8"]), "--cache", str(tmp_path)])
    assert outcome.code == 0
    said = " ".join(outcome.out.split())
    for text in ("PREDICTED, not measured", "NVIDIA A10G", "int8", "fp16", "fp32", "bound by memory", "convolution"):
        assert text in said
    assert "int8: the costliest 10 of" in said and "Reckoned with what is published (600 GB/s" in said


def test_one_object_of_json_with_all_that_was_reckoned_with(
    command: Command, engines: dict[str, Path], tmp_path: Path
) -> None:
    outcome = command(
        ["estimate", str(engines["int8"].parent), "--gpu", "RTX 4090", "--cache", str(tmp_path), "--json"]
    )
    estimated = outcome.json
    assert estimated["what"] == "predicted by a model, not measured"
    assert estimated["gpu"]["name"] == "rtx4090" and "whitepaper" in estimated["gpu"]["sources"]["int8"]
    assert estimated["factors"] == {"memory": 1.0, "arithmetic": {}, "launch": 1.0} and estimated["fitted"] is None
    assert {engine["precision"] for engine in estimated["engines"]} == {"int8", "fp16", "fp32"}
    assert estimated["engines"][0]["precision"] == "int8"  # the cheapest of a model's folder
    for engine in estimated["engines"]:
        assert engine["predicted_ms"] > 0 and engine["moved_bytes"] > 0
        assert sum(engine["share_by_bound"].values()) == pytest.approx(1)
        assert sum(engine["share_by_kind"].values()) == pytest.approx(1)
        assert len(engine["costliest"]) == 10
    assert "sm86" in estimated["notes"][0]


def test_what_is_refused(command: Command, engines: dict[str, Path], tmp_path: Path) -> None:
    for words, said, remedy in (
        ([str(engines["int8"]), "--gpu", "gtx970"], "gtx970", "a10g"),
        ([str(engines["int8-cpu"])], "runs on a processor", "trt-ff profile"),
        ([str(tmp_path)], "no engine", "trt-ff engines"),
        ([str(tmp_path / "nowhere")], "no engine", "trt-ff engines"),
    ):
        outcome = command(["estimate", *words, "--json"])
        assert outcome.code == 2, words
        assert said in outcome.json["error"]["message"] and remedy in outcome.json["error"]["remedy"]
