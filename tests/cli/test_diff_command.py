"""`diff` on the command line, and what the `polygraphy` command makes of what it saves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper
from rich.console import Console
from workplace import IMAGE, Outcome, Workplace

from trt_facefusion.cli import console

Command = Callable[[list[str]], Outcome]
POLYGRAPHY = Path(sys.executable).with_name("polygraphy")


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    """The tiny generator with an error in one layer."""
    model = tiny.generator()
    for tensor in model.graph.initializer:
        if tensor.name == "block1.conv2.weight":
            values = numpy_helper.to_array(tensor)
            noise = np.random.default_rng(0).normal(0, 0.1, values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
    return tiny.save(model, tmp_path / "worse.onnx")


@pytest.fixture
def options(place: Workplace, worse: Path) -> list[str]:
    files = [str(place.model), str(worse), "--faces", str(place.faces)]
    return ["diff", *files, "--input", IMAGE, "--aligned", "--max-faces", "4"]


def test_the_table_names_the_layer_to_raise(command: Command, options: list[str]) -> None:
    outcome = command([*options, "--layers", "--gains", "4"])
    assert outcome.code == 0
    for text in ("picture", "SSIM drop", "Where the error enters, 4 faces", "it gains", "add no error at all"):
        assert text in outcome.out
    first = next(line for line in outcome.out.splitlines() if "block1.conv2" in line)
    assert "◄ +" in first and "Conv" in first
    assert "Raise first: block1.conv2 (+" in outcome.out


def test_json_is_one_object_with_everything(command: Command, options: list[str]) -> None:
    found = command([*options, "--layers", "--json"]).json
    assert (found["schema"], found["faces"], found["passed"]) == (1, 4, True)
    assert found["a"]["ran"] == found["b"]["ran"] == "onnxruntime"
    assert found["outputs"][0]["max_abs"] > 0 and found["picture"]["ssim_drop"] > 0
    worst = found["layers"]["errors"][0]
    assert worst["node"] == {"name": "block1.conv2", "op": "Conv", "precision": "fp32", "reference_precision": "fp32"}
    assert worst["added"] == worst["total"] > 0 and worst["gain"] > 0


def test_the_classic_lpips_is_measured_where_its_backbone_is_named(
    command: Command, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="pip install '.[torch]'")
    from lpips_package import make_lpips

    monkeypatch.syspath_prepend(tmp_path)
    backbone = make_lpips(tmp_path)
    (tmp_path / "none.pth").write_bytes(b"no weights")
    refused = command([*options, "--lpips-backbone", str(tmp_path / "none.pth"), "--json"])
    assert refused.code == 2 and "none.pth" in refused.json["error"]["message"]
    figures = command([*options, "--lpips-backbone", str(backbone), "--json"]).json["picture"]
    assert figures["lpips"] > 0


def test_a_tolerance_that_is_exceeded_ends_with_3(command: Command, options: list[str]) -> None:
    kept = command([*options, "--atol", "1", "--max-ssim-drop", "1"])
    assert kept.code == 0 and kept.out.count("kept") == 2
    exceeded = command([*options, "--atol", "1e-9"])
    assert exceeded.code == 3 and "exceeded  --atol of picture" in exceeded.out
    assert command([*options, "--max-ssim-drop", "0", "--json"]).json["passed"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "gpen_bfr_256"], "both --preset and --input"),
        (["--faces", "nowhere"], "nowhere"),
        (["--embedder", "nowhere.onnx"], "nowhere.onnx"),
        (["--layer-memory", "0"], "--layer-memory"),
    ],
)
def test_bad_input_is_told_with_a_remedy(command: Command, options: list[str], words: list[str], said: str) -> None:
    outcome = command([*options, *words])
    assert outcome.code == 2 and said in outcome.err and "what to do:" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_preset_that_there_is_not_is_told(command: Command, options: list[str]) -> None:
    outcome = command([*options[: options.index("--input")], "--preset", "nope"])
    assert outcome.code == 2 and "there is no preset" in outcome.err and "what to do:" in outcome.err


def test_what_names_nothing_or_is_damaged_is_told(command: Command, options: list[str], tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"not an ONNX file")
    for wrong, code in ((tmp_path / "nowhere", 2), (tmp_path / "cut.onnx", 2)):
        outcome = command(["diff", str(wrong), *options[2:], "--json"])
        assert outcome.code == code and outcome.json["error"]["remedy"]


@pytest.mark.parametrize("width", [80, 120])
def test_tables_cut_nothing_off(
    command: Command, options: list[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(console, "out", Console(width=width))
    outcome = command([*options, "--layers", "--gains", "2"])
    assert outcome.code == 0 and "…" not in outcome.out
    assert all(len(line) <= width for line in outcome.out.splitlines() if ".onnx" not in line)


def test_help_reads_well(command: Command) -> None:
    outcome = command(["diff", "--help"])
    for text in ("--stand-in", "--layers", "--save", "exit code 3 when exceeded", "The reference"):
        assert text in outcome.out


def polygraphy(*words: object) -> tuple[int, str]:
    done = subprocess.run([POLYGRAPHY, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_polygraphy_opens_what_is_saved(command: Command, options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    assert command([*options, "--layers", "--gains", "0", "--max-faces", "6", "--save", str(folder)]).code == 0
    code, text = polygraphy("inspect", "data", folder / "inputs")
    assert code == 0 and "2 iterations" in text and "image [dtype=float32, shape=(4, 3, 32, 32)]" in text
    for side in ("A: tiny.onnx", "B: worse.onnx"):
        code, text = polygraphy("inspect", "data", folder / side[0].lower())
        assert code == 0 and f"{side} (2 iterations)" in text and "picture [dtype=float32" in text
    code, text = polygraphy("inspect", "data", folder / "layers")
    assert code == 0 and "3 runners" in text and "block1.conv2_out" in text


@pytest.mark.slow
def test_polygraphy_compares_what_is_saved(command: Command, options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    error = command([*options, "--json", "--save", str(folder)]).json["outputs"][0]["max_abs"]
    both = ("run", "--load-outputs", folder / "a", folder / "b", "--check-error-stat", "max", "--rtol", 0)
    code, text = polygraphy(*both, "--atol", error * 1.001)
    assert code == 0 and "Passed: 1/1 iterations" in text
    code, text = polygraphy(*both, "--atol", error * 0.999)
    assert code != 0 and "Passed: 0/1 iterations" in text
    inputs = ("--load-inputs", folder / "inputs", "--load-outputs", folder / "a")
    code, text = polygraphy("run", options[1], "--onnxrt", *inputs)
    assert code == 0 and "Passed: 1/1 iterations" in text
    assert onnx.load(options[1]).graph.output[0].name in text
