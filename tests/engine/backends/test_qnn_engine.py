"""An engine for a phone goes the whole way: lowered, simulated, judged, stored, opened, compared, refused elsewhere."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from tiny import SIZE, Settings

from trt_facefusion.build.run import build
from trt_facefusion.cli.main import run
from trt_facefusion.engine.runtime.qnn import CONTEXT, QnnRunner
from trt_facefusion.engine.store import machine as machine_module
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import MANIFEST
from trt_facefusion.errors import BadInputError, BuildError, StoreError
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.evaluation.profiling.measure import Counts
from trt_facefusion.evaluation.profiling.run import ProfileSettings, profile
from trt_facefusion.inference.open import open_model
from trt_facefusion.types import BatchRange, Precision

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")

FEEDS = {"image": np.full((1, 3, SIZE, SIZE), 0.5, np.float32)}
PHONE = {"backend": "qnn", "target": "sm8550", "planner": "auto", "effort": "least"}


@pytest.fixture(scope="module")
def built(module_settings: Settings) -> Path:
    (result,) = build(module_settings(Precision.INT8, **PHONE)).engines
    return result.folder


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    folder = tmp_path / "engines" / built.parent.name / built.name
    shutil.copytree(built, folder)
    return folder


def read_manifest(engine: Path) -> Manifest:
    return Manifest.from_json((engine / MANIFEST).read_bytes())


def change_manifest(engine: Path, **changes: object) -> None:
    (engine / MANIFEST).write_text(dataclasses.replace(read_manifest(engine), **changes).to_json())


def test_the_manifest_says_for_which_chip_and_who_judged_which_face(built: Path, module_settings: Settings) -> None:
    manifest = read_manifest(built)
    assert built.name.startswith("int8-sm8550-qnn-") and manifest.precision == "int8"
    assert (manifest.pins.chip, manifest.pins.htp_arch) == ("sm8550", 73) and manifest.pins.sdk
    simulated = manifest.accuracy["simulated"]
    assert len(simulated["faces"]) == 8 and simulated["by_stand_in"] == manifest.accuracy["faces"] - 8
    assert simulated["psnr_to_stand_in"] > 50 and "simulator" in manifest.verified_with
    assert manifest.int8_kernels.real == manifest.int8_kernels.planned > 0 and not manifest.int8_kernels.missing
    assert build(module_settings(Precision.INT8, **PHONE)).engines[0].up_to_date


def test_widths_are_chosen_by_pictures(built: Path) -> None:
    record = read_manifest(built).inputs.settings["calibration"]
    drops = record["storage_ssim_drop"]
    assert drops["0 groups"] < 0.002 and 0 <= record["macs_share_8_bits"] <= 1
    everything = max(drops, key=lambda label: int(label.split()[0]))
    assert drops[everything] > drops["0 groups"]
    kept = [drop for drop in drops.values() if drop <= drops["0 groups"] + 5e-4]
    assert kept


def test_a_single_extreme_pixel_of_a_large_map_is_inside_of_its_grid(settings: Settings, tmp_path: Path) -> None:
    model = tiny.generator(size=64, blocks=1)
    norm = next(node for node in model.graph.node if node.op_type == "InstanceNormalization")
    channels = next(len(w.float_data or w.raw_data) for w in model.graph.initializer if w.name == norm.input[1]) // 4
    spike = np.zeros((1, channels, 64, 64), np.float32)
    spike[:, :, 1, 1] = 50  # no pixel that is counted where maps are thinned to every second one
    model.graph.initializer.append(onnx.numpy_helper.from_array(spike, "spike"))
    added = onnx.helper.make_node("Add", [norm.input[0], "spike"], ["spiked"], name="spike.add")
    model.graph.node.insert(list(model.graph.node).index(norm), added)
    norm.input[0] = "spiked"
    path = tiny.save(model, tmp_path / "spiked.onnx")
    (result,) = build(settings(Precision.INT8, **PHONE, onnx=path, inputs=("image=image:64:0:1",))).engines
    assert result.manifest.precision == "int8"
    record = read_manifest(result.folder).inputs.settings["calibration"]
    assert record["storage_ssim_drop"]["0 groups"] < 0.002


def test_the_engine_is_the_context_binary_in_its_small_onnx(built: Path) -> None:
    operators = [node.op_type for node in onnx.load(built / "engine.onnx").graph.node]
    assert operators.count(CONTEXT) == 1 and set(operators) == {CONTEXT, "QuantizeLinear", "DequantizeLinear"}


def test_it_is_opened_in_the_simulator_and_compared(built: Path, faces: Path) -> None:
    with open_model(built).open_runner() as runner, open_model(built).open_runner(stand_in=True) as stand_in:
        assert isinstance(runner, QnnRunner) and not isinstance(stand_in, QnnRunner)
        ours, theirs = (opened.infer(FEEDS)["picture"] for opened in (runner, stand_in))
    assert np.abs(ours - theirs).mean() < 0.002
    result = diff(DiffSettings(built, built / "typed.onnx", faces, aligned=True, max_faces=2))
    assert result.a["ran"] == "qnn" and result.passed


def test_fp16_is_built_and_fp32_is_not(module_settings: Settings) -> None:
    (result,) = build(module_settings(Precision.FP16, **PHONE)).engines
    manifest = read_manifest(result.folder)
    assert manifest.precision == "fp16" and manifest.accuracy["simulated"]["psnr_to_stand_in"] > 40
    with pytest.raises(BuildError, match="builds no fp32: the processor of sm8550 has none"):
        build(module_settings(Precision.FP32, **PHONE))


def test_int8_that_is_not_right_falls_back_with_the_reason(module_settings: Settings) -> None:
    limits = {"max_ssim_drop": 1e-9}
    (result,) = build(module_settings(Precision.INT8, **PHONE, limits=limits, repairs=0)).engines
    (step,) = result.fallback
    assert (step.from_, step.to) == ("int8", "fp16") and "SSIM" in step.reason
    assert result.manifest.precision == "fp16" and result.manifest.target == "sm8550"


def test_batches_of_several_sizes_are_refused_before_anything_is_read(module_settings: Settings) -> None:
    with pytest.raises(BadInputError, match="fixed shapes only") as error:
        build(module_settings(Precision.INT8, **PHONE, batch=BatchRange(1, 2, 4)))
    assert "--batch 2" in error.value.remedy


def test_what_is_left_to_the_cpu_is_a_warning_and_an_error_when_strict(settings: Settings, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(extra="Erf", blocks=1), tmp_path / "erf.onnx")
    (result,) = build(settings(Precision.FP16, **PHONE, onnx=model)).engines
    assert any("left to the CPU of sm8550: extra: Erf" in warning for warning in result.manifest.warnings)
    with pytest.raises(BuildError, match="left to the CPU of sm8550: extra: Erf"):
        build(settings(Precision.FP16, **PHONE, onnx=model, strict=True, force=True))


def test_another_version_is_refused_with_the_command_that_builds_again(engine: Path) -> None:
    change_manifest(engine, backend_version="2.0.0")
    with pytest.raises(StoreError, match=r"onnxruntime-qnn 2\.0\.0, and .* is installed") as error:
        open_model(engine).open_runner()
    assert "--target sm8550 --backend qnn --force" in error.value.remedy


def test_an_engine_of_another_chip_is_refused_on_a_phone(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "name_own_chip", lambda: "sm8650")
    with pytest.raises(StoreError, match="compiled for the chip sm8550, and this one is sm8650") as error:
        open_model(engine).open_runner()
    assert "--target sm8650 --backend qnn" in error.value.remedy


def test_an_engine_of_a_chip_that_is_not_known_here_is_refused(engine: Path) -> None:
    change_manifest(engine, pins=dataclasses.replace(read_manifest(engine).pins, chip="sm7777"))
    with pytest.raises(StoreError, match="sm7777, which qnn does not know"):
        open_model(engine).open_runner()


def test_a_simulator_is_never_preferred_nor_timed(engine: Path, settings: Settings) -> None:
    build(settings(Precision.FP32, output=engine.parent.parent))
    opened = open_model(engine.parent, Precision.INT8)
    assert opened.manifest is not None and opened.manifest.backend == "onnxruntime"
    with pytest.raises(BadInputError, match="runs in a simulator here"):
        profile(ProfileSettings(engine, counts=Counts(1, 1, 1)))


def test_a_changed_binary_is_refused(engine: Path) -> None:
    content = bytearray((engine / "engine.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (engine / "engine.onnx").write_bytes(content)
    with pytest.raises(StoreError, match="not what was stored"):
        open_model(engine)


def build_arguments(tmp_path: Path, faces: Path, model: Path, *changes: str) -> list[str]:
    where = ["--output", str(tmp_path / "engines"), "--cache", str(tmp_path / "cache")]
    what = ["--onnx", str(model), "--input", f"image=image:{SIZE}:0:1", "--calib", str(faces), "--aligned"]
    return ["build", "--json", *what, *where, *changes]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (["--int8", "--target", "sm9999", "--backend", "qnn"], 4, "sm8550 (Snapdragon 8 Gen 2)"),
        (["--int8", "--target", "sm9999"], 2, "sm8550"),
        (["--fp32", "--target", "sm8550"], 5, "no fp32"),
        (["--int8", "--target", "sm8550", "--batch", "1:2:4"], 2, "fixed shapes only"),
    ],
)
def test_what_cannot_be_built_says_why_and_leaves_nothing(
    changes: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    faces: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(build_arguments(tmp_path, faces, model, *changes)) == code
    shown = capsys.readouterr().out
    assert said in shown and json.loads(shown)["error"]
    assert not (tmp_path / "engines").exists() and not (tmp_path / "cache").exists()


def test_without_the_library_it_says_how_to_install_it(
    tmp_path: Path, faces: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    assert run(build_arguments(tmp_path, faces, model, "--int8", "--target", "sm8550")) == 4
    assert "pip install 'onnxruntime-qnn" in capsys.readouterr().out
    assert not (tmp_path / "engines").exists()


def test_what_it_needs_is_shown(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(built)]) == 0
    assert "phones with the chip sm8550 (HTP v73)" in " ".join(capsys.readouterr().out.split())
    assert run(["doctor", "--quick", "--json"]) in {0, 4}
    assert '"onnxruntime-qnn": "2' in capsys.readouterr().out
