"""An engine of OpenVINO goes the whole way: built, judged, stored, opened, compared, profiled, refused elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny import SIZE, Settings

from trt_facefusion.build.run import build
from trt_facefusion.build.tuning import zero_points
from trt_facefusion.cli.main import run
from trt_facefusion.engine.backends.processor import name_instructions
from trt_facefusion.engine.runtime.openvino import OpenVinoRunner
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import MANIFEST
from trt_facefusion.errors import StoreError
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.evaluation.profiling.measure import Counts
from trt_facefusion.evaluation.profiling.run import ProfileSettings, profile
from trt_facefusion.inference.open import open_model
from trt_facefusion.types import BatchRange, Precision

pytest.importorskip("openvino", reason="OpenVINO is not installed")

FEEDS = {"image": np.full((1, 3, SIZE, SIZE), 0.5, np.float32)}


@pytest.fixture(scope="module")
def built(module_settings: Settings) -> Path:
    (result,) = build(module_settings(Precision.INT8, backend="openvino")).engines
    return result.folder


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "engines" / built.parent.name / built.name
    shutil.copytree(built, copy)
    return copy


def read_manifest(engine: Path) -> Manifest:
    return Manifest.from_json((engine / MANIFEST).read_bytes())


def change_manifest(engine: Path, manifest: Manifest) -> None:
    (engine / MANIFEST).write_text(manifest.to_json())


def test_the_engine_itself_is_judged_and_its_int8_is_proven(engine: Path, module_settings: Settings) -> None:
    manifest = read_manifest(engine)
    assert manifest.precision == "int8" and manifest.verified_with == f"openvino {manifest.backend_version}"
    assert manifest.int8_kernels.real == manifest.int8_kernels.planned > 0
    assert manifest.pins.instructions == name_instructions()
    assert "Pad" not in {kernel.type for kernel in manifest.kernels}
    assert (engine / "engine.blob").is_file() and (engine / "typed.onnx").is_file()
    assert build(module_settings(Precision.INT8, backend="openvino")).engines[0].up_to_date


def read_operators(engine: Path) -> set[str]:
    return {node.op_type for node in onnx.load(engine / "typed.onnx").graph.node}


def test_shifted_channels_become_zero_points_by_what_pictures_say(engine: Path) -> None:
    record = read_manifest(engine).inputs.settings["calibration"]
    assert isinstance(record, dict) and record["shifted"] > 0 and record["zero_points"] is not None
    assert {"shifts", "zero points, 0 clipped"} < record["zero_points_ssim_drop"].keys()
    assert not {"Pad", "Sub"} & read_operators(engine)


def test_channels_stay_shifted_where_pictures_lose_too_much_by_zero_points(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_points, "_WORTH_A_PAD", -1.0)
    (result,) = build(settings(Precision.INT8, backend="openvino")).engines
    assert {"Pad", "Sub"} <= read_operators(result.folder)
    assert read_manifest(result.folder).int8_kernels.missing == ()


def test_it_is_opened_and_gives_the_picture_of_its_typed_graph(engine: Path) -> None:
    with open_model(engine).open_runner() as runner, open_model(engine / "typed.onnx").open_runner() as typed:
        assert isinstance(runner, OpenVinoRunner)
        ours, theirs = (opened.infer(FEEDS)["picture"] for opened in (runner, typed))
    assert np.abs(ours - theirs).mean() < 0.002
    with open_model(engine).open_runner(stand_in=True) as runner:
        assert not isinstance(runner, OpenVinoRunner)


def test_it_is_compared_and_profiled_itself(engine: Path, faces: Path) -> None:
    result = diff(DiffSettings(engine, engine / "typed.onnx", faces, aligned=True, max_faces=4))
    assert result.a["ran"] == "openvino" and result.passed
    profiled = profile(ProfileSettings(engine, counts=Counts(1, 3, 2), flights=(1, 2), batches=(1,), threads=1)).one
    assert not profiled.stand_in and "1 thread" in profiled.device
    planned = [layer for layer in profiled.layers if layer.precision == "int8" and layer.is_math]
    assert planned and {layer.dtypes.split(" -> ")[0] for layer in planned} == {"uint8 x int8"}


def test_another_processor_is_refused_with_the_command_that_builds_for_it(engine: Path) -> None:
    manifest = read_manifest(engine)
    change_manifest(engine, dataclasses.replace(manifest, pins=dataclasses.replace(manifest.pins, instructions="sve")))
    with pytest.raises(StoreError, match="compiled for a processor with sve") as error:
        open_model(engine).open_runner()
    assert "--target cpu --backend openvino --force" in error.value.remedy
    with pytest.raises(StoreError, match="compiled for a processor with sve"):
        open_model(engine.parent)


def test_another_version_is_refused(engine: Path) -> None:
    change_manifest(engine, dataclasses.replace(read_manifest(engine), backend_version="2025.1.0"))
    with pytest.raises(StoreError, match=r"OpenVINO 2025\.1\.0, and .* is installed"):
        open_model(engine).open_runner()


def test_a_changed_engine_is_refused(engine: Path) -> None:
    content = bytearray((engine / "engine.blob").read_bytes())
    content[len(content) // 2] ^= 1
    (engine / "engine.blob").write_bytes(content)
    with pytest.raises(StoreError, match="not what was stored"):
        open_model(engine)


def test_one_engine_takes_a_range_of_batches(settings: Settings) -> None:
    (result,) = build(settings(Precision.INT8, backend="openvino", batch=BatchRange(1, 2, 4))).engines
    with open_model(result.folder).open_runner() as runner:
        single = runner.infer(FEEDS)["picture"]
        several = runner.infer({"image": np.repeat(FEEDS["image"], 4, axis=0)})["picture"]
    np.testing.assert_allclose(several, np.repeat(single, 4, axis=0), atol=1e-4)


def test_fp16_says_that_it_is_computed_in_fp32(settings: Settings) -> None:
    (result,) = build(settings(Precision.FP16, backend="openvino")).engines
    assert any("FP16 in FP32" in warning for warning in read_manifest(result.folder).warnings)


def test_what_it_needs_is_shown(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(engine)]) == 0
    assert f"processors with {name_instructions()}" in " ".join(capsys.readouterr().out.split())
    assert run(["doctor", "--quick", "--json"]) in {0, 4}
    shown = capsys.readouterr().out
    assert '"openvino": "20' in shown and name_instructions() in shown
