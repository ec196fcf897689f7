"""`trt-ff presets`: what is known, what a file is taken for and why; and a build that is not told what its file is."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import pytest
import tiny
from preset_stand_ins import STAND_INS

from trt_facefusion.cli.main import run
from trt_facefusion.model.presets import PRESETS


def save(name: str, folder: Path) -> str:
    return str(tiny.save(STAND_INS[name](), folder / "some.onnx"))


def test_all_known_generators_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["presets"]
    assert [preset["name"] for preset in listed] == list(PRESETS)
    assert all(preset["inputs"] and preset["licence"] for preset in listed)
    assert run(["presets", "gpen_bfr_1024"]) == 0
    assert "it overflows in FP16" in capsys.readouterr().out


def test_a_file_is_told_what_it_is_taken_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save("inswapper_128", tmp_path)
    assert run(["presets", path]) == 0
    told = capsys.readouterr().out
    assert "taken for inswapper_128: it takes and gives" in told and "embedding x buff2fs" in told
    assert run(["presets", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["preset"]["template"] == "arcface_128" and len(document["ruled_out"]) == len(PRESETS) - 1


def test_an_ambiguity_is_an_error_that_shows_the_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save("hififace_unofficial_256", tmp_path)
    assert run(["presets", path]) == 2
    assert "ghost_3_256, hififace_unofficial_256" in capsys.readouterr().out
    assert run(["build", "--int8", "--calib", "nowhere", "--onnx", path]) == 2
    told = capsys.readouterr().err
    assert "may be one of 5 known generators" in told and "--preset hififace_unofficial_256" in told


def test_a_build_says_what_it_takes_a_file_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", "--int8", "--calib", "nowhere", "--onnx"]
    assert run([*words, save("ghost_2_256", tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "taken for ghost_2_256: its output is called 1165" in told and "with --converter" in told


def test_a_generator_of_ones_own_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tiny.save(nets.swapper(), tmp_path / "own.onnx"))
    assert run(["presets", path]) == 2
    told = capsys.readouterr().out
    assert "none of the known generators" in told and "not inswapper_128: 'target' is described as" in told
    assert run(["build", "--int8", "--calib", "nowhere", "--onnx", path]) == 2
    assert "nothing says what the inputs of own are" in capsys.readouterr().err


def test_what_is_no_preset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for which in ("nothing", str(tmp_path), str(tmp_path / "nothing.yaml"), str(tmp_path / "nothing.onnx")):
        assert run(["presets", which]) == 2
        assert "what to do:" in capsys.readouterr().err
