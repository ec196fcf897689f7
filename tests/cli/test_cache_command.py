from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from twin.nets import Case, batches
from workplace import Outcome, Workplace

from trt_facefusion.build.tuning.histograms import find_watched_tensors
from trt_facefusion.cli import console
from trt_facefusion.cli.histograms import _draw_markers, draw_sparkline
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.model.export import digest_model
from trt_facefusion.quantization.calibration import Calibration, CalibrationTable, collect
from trt_facefusion.quantization.calibration.cache import save
from trt_facefusion.quantization.calibration.channels import measure_channel_ranges
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.equalise import find_channel_affines, find_equalisable, make_scaled_tensors

Command = Callable[[list[str]], Outcome]


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.fixture
def foreign(case: Case, tmp_path: Path) -> Path:
    """A cache as TensorRT 8 writes it: names of its own, no JSON beside it."""
    table = {**case.table, "a.w_output": 1.0, "(Unnamed Layer* 7) [Shuffle]_output": 2.0}
    path = tmp_path / "trt8.cache"
    path.write_text(CalibrationTable(table, "TRT-8601-EntropyCalibration2").dumps())
    return path


@pytest.fixture
def model(case: Case, tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(case.model)
    return path


def test_show_of_a_foreign_cache(command: Command, foreign: Path) -> None:
    shown = command(["cache", "show", str(foreign)])
    assert shown.code == 0
    assert "TRT-8601-EntropyCalibration2" in shown.out
    assert "picture" in shown.out
    data = command(["cache", "show", str(foreign), "--json"]).json
    assert data["rule"] is None
    assert data["tensors"]["picture"] == pytest.approx(1.0, rel=0.2)


def test_show_of_our_own_cache_has_histograms(command: Command, place: Workplace) -> None:
    assert command(place.options()).code == 0
    (path,) = place.cache.glob("*.cache")
    shown = command(["cache", "show", str(path)])
    assert "rule max" in shown.out
    assert "█" in shown.out
    assert "pinned" in shown.out
    assert command(["cache", "show", str(path), "--json"]).json["rule"] == "max"


def test_sparkline_shows_the_tail() -> None:
    histogram = Histogram()
    histogram.add(np.r_[np.linspace(0, 1, 10_000), 8.0].astype(np.float32))
    line = draw_sparkline(histogram, 24)
    assert len(line) == 24
    assert line[0] == "█"
    assert line[-1] not in " █"
    assert line[12] == " "
    assert draw_sparkline(Histogram(), 24).strip() == ""


def test_diff_sorts_by_ratio(command: Command, tmp_path: Path) -> None:
    paths = [tmp_path / "one.cache", tmp_path / "two.cache"]
    paths[0].write_text(CalibrationTable({"a": 1.0, "b": 2.0, "gone": 1.0}).dumps())
    paths[1].write_text(CalibrationTable({"a": 1.0, "b": 1.0, "new": 1.0}).dumps())
    words = ["cache", "diff", *map(str, paths)]
    data = command([*words, "--json"]).json
    assert [(row["name"], row["ratio"]) for row in data["tensors"]] == [("b", 0.5), ("a", 1.0)]
    assert (data["only_first"], data["only_second"]) == (["gone"], ["new"])
    shown = command([*words, "--limit", "1"]).out
    assert "2 tensors in both, 1 of them equal; 1 smaller changes" in shown


def test_diff_of_caches_with_nothing_in_common(command: Command, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(CalibrationTable({name: 1.0}).dumps())
    refused = command(["cache", "diff", str(tmp_path / "a"), str(tmp_path / "b")])
    assert refused.code == 2
    assert "no tensor in common" in refused.err


def test_convert_gives_the_graph_that_a_build_would(
    command: Command, case: Case, foreign: Path, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "typed.onnx"
    words = ["cache", "convert", str(foreign), "--onnx", str(model), "-o", str(output)]
    data = command([*words, "--json"]).json
    assert data["missing"] == data["int8_lost"] == []
    assert data["constants"] == ["a.w_output"]
    assert data["unknown"] == ["(Unnamed Layer* 7) [Shuffle]_output"]
    assert data["int8_nodes"] == 4
    pictures = []
    for found in (output.read_bytes(), case.typed()):
        with OnnxRuntimeRunner(onnx.load_model_from_string(found), stand_in=True) as runner:
            pictures.append(runner.infer(batches(1)[0])["picture"])
    np.testing.assert_allclose(*pictures, atol=1e-5)
    again = command(words)
    assert again.code == 2
    assert "--force" in again.err
    assert command([*words, "--force"]).code == 0


def test_convert_keeps_the_equalisation_of_our_own_caches(
    command: Command, case: Case, model: Path, tmp_path: Path
) -> None:
    prepared, view = case.prepared.model, case.view
    by_tensor = find_channel_affines(view, measure_channel_ranges(prepared, list(find_equalisable(view)), batches()))
    histograms = collect(prepared, find_watched_tensors(view)[0], batches(), scaled=make_scaled_tensors(by_tensor))
    kept = {name: tuple(affine.exponents.tolist()) for name, affine in by_tensor.items()}
    shifts = {name: tuple(affine.offsets.tolist()) for name, affine in by_tensor.items() if affine.shifts}
    digest = digest_model(prepared)
    made = Calibration("small", digest, "faces", histograms, "max", exponents=kept, offsets=shifts)
    cache = save(made, tmp_path / "cache")
    output = tmp_path / "typed.onnx"
    data = command(["cache", "convert", str(cache), "--onnx", str(model), "-o", str(output), "--json"]).json
    assert data["unknown"] == []
    wanted = [lower(view, case.plan, {**case.table, **made.table}, affines=a) for a in (by_tensor, {})]
    pictures = []
    for found in (onnx.load(output), *wanted):
        with OnnxRuntimeRunner(found, stand_in=True) as runner:
            pictures.append(runner.infer(batches(1)[0])["picture"])
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1e-5)
    assert np.abs(pictures[0] - pictures[2]).max() > 1e-3


def test_convert_refuses_our_cache_of_another_model(command: Command, case: Case, model: Path, tmp_path: Path) -> None:
    histograms = collect(case.prepared.model, find_watched_tensors(case.view)[0], batches())
    cache = save(Calibration("small", "0" * 64, "faces", histograms, "max"), tmp_path / "cache")
    refused = command(["cache", "convert", str(cache), "--onnx", str(model), "-o", str(tmp_path / "typed.onnx")])
    assert refused.code == 2
    assert "was made for another model" in refused.err


def test_convert_names_what_has_no_range(
    command: Command, case: Case, foreign: Path, model: Path, tmp_path: Path
) -> None:
    lines = [line for line in foreign.read_text().splitlines() if not line.startswith("sum:0: ")]
    foreign.write_text("\n".join(lines) + "\n")
    output = tmp_path / "typed.onnx"
    shown = command(["cache", "convert", str(foreign), "--onnx", str(model), "-o", str(output)])
    assert shown.code == 0
    assert "1 tensors without a range: sum:0" in shown.out
    assert "1 nodes that stay FP16 because of that: c" in shown.out


def test_convert_to_a_table_in_the_models_names(
    command: Command, case: Case, foreign: Path, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "ours.cache"
    assert command(["cache", "convert", str(foreign), "--onnx", str(model), "-o", str(output)]).code == 0
    assert set(CalibrationTable.read(output)) == set(case.table)


@pytest.mark.parametrize(("output", "says"), [("typed.txt", "neither"), ("typed.onnx", "no range for the tensor")])
def test_convert_refuses(command: Command, model: Path, tmp_path: Path, output: str, says: str) -> None:
    cache = tmp_path / "other.cache"
    cache.write_text(CalibrationTable({"elsewhere": 1.0}).dumps())
    refused = command(["cache", "convert", str(cache), "--onnx", str(model), "-o", str(tmp_path / output)])
    assert refused.code == 2
    assert says in refused.err
    assert not (tmp_path / output).exists()


def test_show_draws_a_tensor_with_the_threshold_of_every_rule(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(place.options(rule="percentile:99")).code == 0
    (path,) = place.cache.glob("*.cache")
    words = ["cache", "show", str(path), "--tensor", "head_out"]
    data = command([*words, "--json"]).json["histograms"]
    assert list(data) == ["head_out"]
    facts = data["head_out"]
    assert facts["rule"] == "percentile:99" and facts["amax"] == facts["thresholds"]["percentile:99"]
    assert facts["clipped"] == pytest.approx(0.01, abs=0.003)
    assert set(facts["thresholds"]) > {"entropy", "mse", "max"}
    assert sum(facts["counts"]) == facts["values"]
    for width in (80, 100):
        monkeypatch.setattr(console.out, "width", width)
        lines = command(words).out.splitlines()
        assert max(map(len, lines)) <= width
        assert sum("█" in line for line in lines) == 7
        assert next(line for line in lines if line.endswith("< used")).split()[1] == "percentile:99"


def test_show_draws_the_worst_tensors_and_says_why_they_are_as_they_are(command: Command, place: Workplace) -> None:
    assert command(place.options(rule="auto")).code == 0
    (path,) = place.cache.glob("*.cache")
    data = command(["cache", "show", str(path), "--json", "--worst", "4"]).json
    noise = [facts["sqnr_db"] for facts in data["histograms"].values()]
    assert len(noise) == 4 and noise == sorted(noise)
    assert set(data["histograms"]) <= set(data["choice"]["quantised"])
    shown = command(["cache", "show", str(path), "--worst", "1"]).out
    assert "rule for all tensors" in shown and "trials" in shown and shown.count("< used") == 1


def test_show_of_a_tensor_that_is_not_there(command: Command, place: Workplace, foreign: Path) -> None:
    assert command(place.options()).code == 0
    (path,) = place.cache.glob("*.cache")
    refused = command(["cache", "show", str(path), "--tensor", "head_ou"])
    assert refused.code == 2 and "did you mean head_out" in refused.err
    refused = command(["cache", "show", str(foreign), "--tensor", "picture"])
    assert refused.code == 2 and "has no histograms" in refused.err


def test_thresholds_that_meet_stand_side_by_side() -> None:
    assert _draw_markers([0.0, 0.0, 0.5, 0.999, 1.0], 20) == "ab        c       de"
    assert _draw_markers([1.0, 1.0, 1.0], 20) == " " * 17 + "abc"
