"""`trt-ff profile`: its tables, its JSON, its plot, and what it refuses."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from workplace import Outcome, Workplace

from trt_facefusion.cli.main import run
from trt_facefusion.inference import embedders as embedders_module

Command = Callable[[list[str]], Outcome]
QUICK = ["--warmups", "1", "--rounds", "4", "--in-flight", "1,2", "--threads", "1"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_faces: Path) -> list[Path]:
    """An INT8 and an FP32 engine, which no test changes."""
    place = Workplace(tmp_path_factory.mktemp("built"), tiny_model, tiny_faces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        assert run(place.options(fp32=True, batch="1:1:2")) == 0
    return [next(place.output.glob(f"*/{precision}-*")) for precision in ("int8", "fp32")]


def test_one_object_of_json_with_the_figures(command: Command, engines: list[Path]) -> None:
    outcome = command(["profile", str(engines[0]), "--against", str(engines[1]), *QUICK, "--json"])
    assert outcome.code == 0
    found = outcome.json
    assert list(found)[:5] == ["latency_ms", "throughput_per_s", "host_overhead_us", "memory_bytes", "layers"]
    assert set(found["latency_ms"]) == {"p50", "p90", "p95", "p99", "max"}
    assert found["rounds"] == 4 and found["comparison"]["rounds"] == 4
    assert found["against"]["precision"] == "fp32"
    assert {"onnxruntime", "numpy"} <= set(found["versions"])
    assert [point["batch"] for point in found["batch_sweep"]] == [1, 2]
    assert {layer["precision"] for layer in found["layers"]} >= {"int8", "fp16"}


def test_the_tables_say_what_was_measured(command: Command, engines: list[Path]) -> None:
    outcome = command(["profile", str(engines[0]), "--against", str(engines[1]), *QUICK])
    assert outcome.code == 0
    for text in ("latency p50", "latency p99", "host, per call", "memory", "batch of 2", "2 in flight", "1 thread"):
        assert text in outcome.out
    assert "times as long as" in " ".join(outcome.out.split())
    assert "uint8 x " in " ".join(outcome.out.split())


def test_the_layers_may_be_left_out(command: Command, engines: list[Path]) -> None:
    assert "slowest" not in command(["profile", str(engines[0]), *QUICK, "--top", "0"]).out


@pytest.mark.parametrize("name", ["plot.svg", "plot.html"])
def test_the_plot_needs_nothing_else(command: Command, engines: list[Path], name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    outcome = command(["profile", str(engines[0]), "--against", str(engines[1]), *QUICK, "--plot", str(path)])
    assert outcome.code == 0 and str(path) in outcome.err
    text = path.read_text()
    svg = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    tag = "{http://www.w3.org/2000/svg}"
    assert len(svg.findall(f"{tag}polyline")) == 2 * 3
    assert len(svg.findall(f"{tag}rect/{tag}title")) > 10
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_is_refused(command: Command, engines: list[Path], tmp_path: Path) -> None:
    engine = str(engines[0])
    for words, code, said in (
        ([str(tmp_path / "nowhere")], 2, "cannot be run"),
        ([engine, "--plot", "plot.jpg"], 2, ".svg"),
        ([engine, "--batches", "1,x"], 2, "--batches"),
        ([engine, "--in-flight", "0"], 2, "--in-flight"),
        ([engine, "--batch", "3"], 2, "batches of 1 to 2"),
        ([engine, "--trtexec"], 2, "trtexec"),
        ([engine, "--faces", str(tmp_path / "nobody")], 2, "nobody"),
    ):
        outcome = command(["profile", *words, *QUICK[:4], "--json"])
        assert outcome.code == code and said in outcome.json["error"]["message"], words
        assert outcome.json["error"]["remedy"]


def test_a_plot_that_cannot_be_written_leaves_nothing(command: Command, engines: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = command(["profile", str(engines[0]), *QUICK, "--plot", str(tmp_path / "file" / "plot.svg")])
    assert outcome.code == 6
    assert "--plot" in outcome.err
