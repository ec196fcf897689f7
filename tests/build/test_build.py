"""Builds of a tiny model: what is up to date, what is built anew, and what comes out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import yaml
from tiny import Settings

from trt_facefusion.build import job as job_module
from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import BadInputError, BuildError, FacesError
from trt_facefusion.types import BatchRange, Precision

INT8, FP16, FP32 = Precision.INT8, Precision.FP16, Precision.FP32


def built(settings: BuildSettings, notes: list[str] | None = None) -> EngineResult:
    """The one engine of a build with one precision."""
    return build(settings, note=(notes if notes is not None else []).append).engines[0]


def test_the_same_build_again_is_up_to_date(settings: Settings) -> None:
    first = built(settings())
    assert not first.up_to_date and first.as_asked
    again = built(settings())
    assert again.up_to_date and again.as_asked
    assert again.manifest == first.manifest and again.folder == first.folder


def test_what_is_stored_says_everything_that_went_in(settings: Settings, model: Path) -> None:
    result = built(settings(INT8))
    stored = Store(result.folder.parent.parent).load(result.folder)
    assert {"engine.onnx", "typed.onnx", "plan.yaml", "build.log", "preset.json"} == set(stored.files)
    assert stored.accuracy["faces"] == 8 and stored.gate.passed
    assert stored.inputs.settings["calibration"]["rule"] == "max"
    assert len({stored.inputs.faces_sha256, stored.inputs.evaluation_faces_sha256, stored.inputs.model_sha256}) == 3
    onnx.checker.check_model(onnx.load(result.folder / "typed.onnx"), full_check=True)


def test_moved_faces_are_still_the_same(settings: Settings, faces: Path, tmp_path: Path) -> None:
    built(settings())
    assert built(settings(calib=shutil.copytree(faces, tmp_path / "elsewhere"))).up_to_date


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "percentile:99.9"},
        {"batch": BatchRange(1, 2, 4)},
        {"repairs": 1},
        {"max_calib": 20},
        {"max_eval": 6},
        {"force": True},
        {"recalibrate": True},
    ],
    ids=str,
)
def test_a_changed_setting_builds_anew(settings: Settings, change: dict[str, object]) -> None:
    built(settings(FP16))
    assert not built(settings(FP16, **change)).up_to_date
    change = {key: value for key, value in change.items() if key not in {"force", "recalibrate"}}
    assert built(settings(FP16, **change)).up_to_date


def test_another_gate_for_int8_builds_int8_anew_and_nothing_else(settings: Settings) -> None:
    build(settings(INT8, FP16))
    result = build(settings(INT8, FP16, limits={"max_ssim_drop": 0.02}))
    assert [engine.up_to_date for engine in result.engines] == [False, True]


def test_a_changed_face_builds_anew(settings: Settings, faces: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(faces, tmp_path / "faces")
    built(settings(calib=folder))
    tiny.write_pictures(folder, [500])
    notes: list[str] = []
    assert not built(settings(calib=folder), notes).up_to_date
    assert any(note.startswith("calibrating anew: the calibration faces have changed") for note in notes)


def test_changed_faces_to_judge_on_build_anew_but_calibrate_once(settings: Settings, tmp_path: Path) -> None:
    judged_on = tiny.write_pictures(tmp_path / "eval", range(100, 110))
    first = built(settings(eval=judged_on))
    tiny.write_pictures(judged_on, [500])
    notes: list[str] = []
    second = built(settings(eval=judged_on), notes)
    assert not second.up_to_date and second.manifest.accuracy["faces"] == 11
    assert any(note.startswith("calibration: taken from") for note in notes)
    assert second.manifest.inputs.calibration_sha256 == first.manifest.inputs.calibration_sha256


def test_a_changed_model_builds_anew_and_another_name_gets_its_own_engine(settings: Settings, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(), tmp_path / "net.onnx")
    first = built(settings(onnx=model))
    tiny.save(tiny.generator(seed=1), model)
    second = built(settings(onnx=model))
    assert not second.up_to_date and second.folder == first.folder
    renamed = built(settings(onnx=Path(shutil.copy(model, tmp_path / "other.onnx"))))
    assert not renamed.up_to_date and renamed.folder.parent.name == "other"


def test_a_changed_plan_builds_anew(settings: Settings, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes((built(settings()).folder / "plan.yaml").read_bytes())
    result = built(settings(plan=plan))
    assert not result.up_to_date and result.manifest.int8_kernels.planned == 5
    assert built(settings(plan=plan)).up_to_date
    edited = plan.read_text().replace(
        "{name: merge, op: Conv, role: convolution, precision: int8, reason: ",
        "{name: merge, op: Conv, role: convolution, precision: fp16, reason: by hand and ",
    )
    assert edited != plan.read_text()
    plan.write_text(edited)
    result = built(settings(plan=plan))
    assert not result.up_to_date and result.manifest.int8_kernels.planned == 4
    node = nodes_of(result)["merge"]
    assert node["precision"] == "fp16" and node["reason"].startswith("by hand and ")


def nodes_of(result: EngineResult) -> dict[str, dict[str, object]]:
    return {node["name"]: node for node in yaml.safe_load((result.folder / "plan.yaml").read_text())["nodes"]}


def test_changed_values_of_a_file_input_build_and_calibrate_anew(settings: Settings, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(embedding=8), tmp_path / "styled.onnx")
    inputs = ("image=image:32:0:1", f"identity=file:{tmp_path / 'style.npy'}")
    np.save(tmp_path / "style.npy", np.ones(8, np.float32))
    first = built(settings(onnx=model, inputs=inputs))
    assert built(settings(onnx=model, inputs=inputs)).up_to_date
    np.save(tmp_path / "style.npy", np.full(8, 2, np.float32))
    second = built(settings(onnx=model, inputs=inputs))
    assert not second.up_to_date
    assert second.manifest.inputs.calibration_sha256 != first.manifest.inputs.calibration_sha256


def test_a_damaged_engine_is_built_anew(settings: Settings) -> None:
    first = built(settings())
    engine = first.folder / "engine.onnx"
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    second = built(settings())
    assert not second.up_to_date and second.folder == first.folder
    assert built(settings()).up_to_date


def test_several_precisions_come_in_order_and_are_up_to_date_one_by_one(settings: Settings) -> None:
    built(settings(FP16))
    result = build(settings(INT8, FP16, FP32))
    assert [e.manifest.precision for e in result.engines] == ["int8", "fp16", "fp32"]
    assert [e.up_to_date for e in result.engines] == [False, True, False]
    assert result.engines[2].manifest.accuracy["ssim_drop"] == pytest.approx(0, abs=1e-6)


def test_the_fp32_engine_needs_no_calibration(settings: Settings, tmp_path: Path) -> None:
    assert built(settings(FP32)).manifest.inputs.calibration_sha256 is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_model_of_fixed_batch(settings: Settings, tmp_path: Path, batch: int) -> None:
    model = tiny.save(tiny.generator(batch=batch, embedding=128), tmp_path / "fixed.onnx")
    inputs = ("image=image:32:0:1", "identity=embedding")
    result = built(settings(onnx=model, inputs=inputs, batch=BatchRange(batch, batch, batch)))
    assert result.as_asked and result.manifest.accuracy["faces"] == 8
    assert result.manifest.shapes["image"] == ((batch, 3, 32, 32),) * 3


def test_a_fixed_batch_larger_than_the_faces(settings: Settings, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(batch=50), tmp_path / "fixed.onnx")
    assert built(settings(onnx=model, batch=BatchRange(50, 50, 50))).as_asked


def test_of_two_outputs_the_picture_is_judged(settings: Settings, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(two_outputs=True), tmp_path / "two.onnx")
    result = built(settings(onnx=model))
    outputs = [value.name for value in onnx.load(result.folder / "typed.onnx").graph.output]
    assert outputs == ["mask", "picture"] and result.as_asked and result.manifest.accuracy["psnr_db"] > 30


def test_a_layer_that_is_always_zero_is_no_obstacle(settings: Settings, tmp_path: Path) -> None:
    model = tiny.generator()
    for tensor in model.graph.initializer:
        if tensor.name in {"block1.norm.shift", "block1.shift"}:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(8, -100, np.float32), tensor.name))
    assert built(settings(onnx=tiny.save(model, tmp_path / "dead.onnx"))).as_asked


# What changes under the build


def test_faces_that_change_while_they_are_read_are_no_basis(settings: Settings, faces: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(faces, tmp_path / "faces")

    def meddle(stage: str, done: int, total: int) -> None:
        if stage == "model":  # after the digests, before the faces
            tiny.write_pictures(folder, [501])

    with pytest.raises(FacesError, match="was changed while it was read"):
        build(settings(calib=folder), meddle)
    assert not Store(tmp_path / "engines").list()


def test_a_model_that_changes_during_the_build_gives_no_engine(settings: Settings, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(), tmp_path / "net.onnx")

    def meddle(stage: str, done: int, total: int) -> None:
        if stage == "compile":
            tiny.save(tiny.generator(seed=2), model)

    with pytest.raises(BadInputError, match="changed while the engine was being built: model"):
        build(settings(onnx=model), meddle)
    assert not Store(tmp_path / "engines").list()


# Skipped photos and warnings


def test_many_skipped_photos_are_told_in_a_few_lines(settings: Settings, faces: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(faces, tmp_path / "faces")
    for number in range(12):
        shutil.copy(folder / "0000.png", folder / f"copy{number}.png")
        (folder / f"bad{number}.png").write_bytes(bytes([number]))
    notes: list[str] = []
    built(settings(calib=folder), notes)
    told = [note for note in notes if "skipped" in note and "warning" not in note]
    assert len(told) == 6 and all(note.startswith("skipped bad") for note in told[:5])
    assert told[5] == f"and 19 more; skipped 24 of 64 photos in {folder}: 12 unreadable, 12 duplicate"


def test_a_few_skipped_photos_are_told_one_by_one(settings: Settings, faces: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(faces, tmp_path / "faces")
    (folder / "bad.png").write_bytes(b"x")
    notes: list[str] = []
    built(settings(calib=folder), notes)
    assert [note.partition(":")[0] for note in notes if note.startswith(("skipped", "and"))] == ["skipped bad.png"]


def test_a_verdict_on_few_faces_or_known_faces_says_so(settings: Settings, faces: Path, tmp_path: Path) -> None:
    judged_on = tmp_path / "eval"
    judged_on.mkdir()
    for name in ("0000.png", "0001.png", "0002.png"):
        shutil.copy(faces / name, judged_on / name)
    result = built(settings(eval=judged_on))
    assert result.manifest.accuracy["faces"] == 3
    assert any("judged on 3 faces only" in warning for warning in result.manifest.warnings)
    assert any("3 photos of" in warning and "softer" in warning for warning in result.manifest.warnings)


# Kernels that are not what the plan says


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend for sm86 that makes no INT8 kernel."""
    from trt_facefusion.engine.backends.capabilities import Capabilities
    from trt_facefusion.engine.backends.onnxruntime import OnnxRuntime
    from trt_facefusion.engine.backends.registry import BackendSelection

    class Blind(OnnxRuntime):
        name = "tensorrt-rtx"
        capabilities = Capabilities(compiles_in_seconds=True)

        def build(self, request, progress=lambda *_: None):
            engine = super().build(replace(request, target="cpu"), progress)
            return replace(engine, backend=self.name, target=request.target)

    monkeypatch.setattr(
        job_module, "select_backend", lambda name, target: BackendSelection(Blind(), target, "asked for")
    )


@pytest.mark.usefixtures("blind")
def test_missing_int8_kernels_are_named_in_the_manifest_of_that_engine_only(settings: Settings) -> None:
    engines = build(settings(INT8, FP16, target="sm86")).engines
    kernels = engines[0].manifest.int8_kernels
    assert (kernels.planned, kernels.real) == (5, 0) and "block0.conv1" in kernels.missing
    assert any("5 of 5 planned INT8 nodes are no INT8 kernel: block0.conv1" in w for w in engines[0].manifest.warnings)
    assert not any("INT8 kernel" in w for w in engines[1].manifest.warnings)


@pytest.mark.usefixtures("blind")
def test_strict_refuses_missing_int8_kernels_even_in_a_stored_engine(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"5 of 5 planned INT8 nodes are no INT8 kernel: block0\.conv1"):
        build(settings(target="sm86", strict=True))
    assert not Store(tmp_path / "engines").list()
    built(settings(target="sm86"))
    with pytest.raises(BuildError, match="no INT8 kernel"):
        build(settings(target="sm86", strict=True))
    assert built(settings(FP16, target="sm86", strict=True)).as_asked
    assert built(settings(FP16, target="sm86", strict=True)).up_to_date


def test_a_real_engine_for_sm86(settings: Settings) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = built(settings(backend="tensorrt-rtx", strict=True))
    assert result.as_asked and result.manifest.target == "sm86"
    kernels = result.manifest.int8_kernels
    assert kernels.known and kernels.real == kernels.planned == 5
    assert built(settings(backend="tensorrt-rtx", strict=True)).up_to_date
    assert "standing in for the engine" in result.manifest.verified_with


def test_the_real_faces_and_the_real_embedder(settings: Settings, sample_faces: Path, tmp_path: Path) -> None:
    from trt_facefusion.faces.embedder import DlibEmbedder
    from trt_facefusion.inference import embedders as embedders_module
    from trt_facefusion.model.export import OnnxSource

    if not list(sample_faces.glob("*.jpg")):
        pytest.skip(f"no faces in {sample_faces}: make them with scripts/make_samples.py")
    few = tmp_path / "samples"
    few.mkdir()
    for path in sorted(sample_faces.glob("*.jpg"))[:40]:
        shutil.copy(path, few / path.name)
    model = tiny.save(tiny.generator(embedding=128), tmp_path / "swap.onnx")
    asked = settings(onnx=model, inputs=("image=image:32:0:1", "identity=embedding"), calib=few, aligned=False)
    embedders_module.DlibEmbedder = DlibEmbedder  # type: ignore[misc] # the fixture puts its own back
    result = built(replace(asked, source=OnnxSource(model)))
    assert result.manifest.accuracy["faces"] >= 6 and result.as_asked
    assert isinstance(Store(asked.output).list()[0][1], Manifest)
