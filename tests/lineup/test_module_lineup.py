"""Any torch module in every precision: what runs is timed and held against FP32, what does not has a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_facefusion.cli.main import run
from trt_facefusion.errors import BadInputError
from trt_facefusion.lineup.module_inputs import make_samples, parse_module_input, parse_module_inputs
from trt_facefusion.lineup.module_run import measure_error

torch = pytest.importorskip("torch")
NET = """
import torch
def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
class Branching(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x
class Silent(torch.nn.Module):
    def forward(self, x):
        return None
class Strict(torch.nn.Module):
    def forward(self, x, y):
        raise ValueError("never")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lineup_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(capsys: pytest.CaptureFixture[str], factory: str, *more: str) -> dict[str, Any]:
    words = ["compare", "--model", f"lineup_net:{factory}", "--input", "x:float32:8x16", "--rounds", "3", "--warmups"]
    assert run([*words, "1", "--threads", "1", "--json", *more]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_what_runs_here_is_timed_and_near_fp32(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = compare(capsys, "build", "--markdown", "table.md", "--repeats", "2")
    by_name = {(row["library"], row["precision"]): row for row in document["variants"]}
    assert by_name["torch", "fp32"]["error"] == {"largest": 0.0, "relative": 0.0}
    for name, most in {
        ("torch", "fp16"): 0.01,
        ("torch", "int8 static"): 0.1,
        ("onnxruntime", "int8 static"): 0.1,
    }.items():
        row = by_name[name]
        assert 0 < row["error"]["relative"] < most
        assert len(row["medians_ms"]) == 2 and row["fastest_ms"] <= min(row["medians_ms"]) <= row["latency_ms"]["p99"]
        assert row["weights_bytes"] < by_name["torch", "fp32"]["weights_bytes"] * 1.6
    assert (
        "No module named 'tensorrt'" in by_name["tensorrt", "fp32"]["reason"]
        or by_name["tensorrt", "fp32"]["latency_ms"]
    )
    table = Path("table.md").read_text()
    assert "| torch | bf16 |" in table and "lineup\\_net:build" in table and "0.25 s / 0.12 s / 0.18 s" in table


def test_a_module_that_cannot_be_traced_still_runs_in_torch(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {(row["library"], row["precision"]): row for row in compare(capsys, "Branching")["variants"]}
    assert rows["torch", "bf16"]["latency_ms"]
    assert "no Linear" in rows["torch", "int8 dynamic"]["reason"]
    assert "torch cannot quantise it statically" in rows["torch", "int8 static"]["reason"]
    assert "torch cannot export it as ONNX" in rows["onnxruntime", "fp32"]["reason"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "lineup_net:build"], "nothing says what the module takes"),
        (["--model", "lineup_net:build", "--input", "x=image:8:0:1"], "is not NAME:DTYPE:SHAPE"),
        (["--model", "lineup_net:build", "--input", "x:float32:8x15"], "forward() of lineup_net:build"),
        (["--model", "lineup_net:Strict", "--input", "x:float32:8"], "forward() of lineup_net:Strict"),
        (["--model", "lineup_net:Silent", "--input", "x:float32:8"], "gives no tensor"),
        (["--model", "lineup_net:missing", "--input", "x:float32:8"], "lineup_net:missing"),
        (["--model", "lineup_net:build", "--input", "x:float32:8x16", "--samples", "none.npz"], "none.npz"),
        (["--model", "lineup_net:build", "--input", "x:int64:8x16"], "cannot be guessed"),
    ],
)
def test_bad_input_ends_it_and_leaves_nothing(
    words: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *words, "--markdown", "table.md"]) == 2
    assert said in capsys.readouterr().err
    assert {path.name for path in place.iterdir()} - {"__pycache__"} == {"lineup_net.py"}


@pytest.mark.parametrize(
    "text", ["", "x", "x:float32", "x:float32:", "x:float32:8x", "x:float32:0x8", "x:float64:8", "1x:float32:8",
             "x:float32:-8", "x:float32:99999x99999"],
)  # fmt: skip
def test_inputs_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="--input"):
        parse_module_input(text)


def test_half_of_the_samples_calibrates_and_the_other_half_judges(tmp_path: Path) -> None:
    values = np.arange(5 * 2, dtype=np.float32).reshape(5, 2)
    np.savez(tmp_path / "samples.npz", x=values)
    samples = make_samples(parse_module_inputs(["x:float32:2"]), tmp_path / "samples.npz")
    assert [feeds["x"].tolist() for feeds in samples.calibration] == values[:2].tolist()
    assert [feeds["x"].tolist() for feeds in samples.judging] == values[2:].tolist()


@pytest.mark.parametrize("arrays", [{"y": np.zeros((4, 2), np.float32)}, {"x": np.zeros((1, 2), np.float32)},
                                    {"x": np.zeros((4, 3), np.float32)}, {"x": np.zeros((4, 2))}])  # fmt: skip
def test_samples_of_other_inputs_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(BadInputError, match=r"samples\.npz has"):
        make_samples(parse_module_inputs(["x:float32:2"]), tmp_path / "samples.npz")


def test_the_error_is_relative_to_the_outputs() -> None:
    reference = [[np.array([3.0, 4.0])], [np.array([0.0])]]
    error = measure_error(reference, [[np.array([3.0, 4.5])], [np.array([0.0])]])
    assert error.largest == 0.5 and error.relative == pytest.approx(0.1)
