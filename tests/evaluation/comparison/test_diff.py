"""`diff`: two engines or ONNX files on the same faces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from polygraphy.comparator import RunResults
from tiny import Settings

from trt_facefusion.build.run import build
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import BackendUnavailableError, BadInputError, FacesError, ModelError, StoreError
from trt_facefusion.evaluation.accuracy.judge import judge
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.evaluation.comparison.sides import CPU, STAND_IN
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.types import BatchRange, Precision

IMAGE = Preset.from_inputs([parse_input(f"image=image:{tiny.SIZE}:0:1")])
FACES = 6


@pytest.fixture(scope="module")
def engines(module_settings: Settings) -> dict[Precision, Path]:
    """The tiny generator in FP32 and INT8."""
    result = build(module_settings(Precision.FP32, Precision.INT8, limits={"max_ssim_drop": 1.0}))
    return {engine.requested: engine.folder for engine in result.engines}


def as_tensorrt(folder: Path, **changes: Any) -> Path:
    """The same engine, stored as one of TensorRT's that nothing here can run."""
    store = Store(folder.parent.parent)
    manifest = store.load(folder)
    files = {name: (folder / name).read_bytes() for name in manifest.files if not name.startswith("engine.")}
    fields = {"backend": "tensorrt", "backend_version": "10.16.1.11", "target": "sm86", **changes}
    return store.save(manifest.__class__(**{**manifest.__dict__, **fields}), {**files, "engine.engine": b"plan"})


def test_the_figures_are_those_of_the_two_networks(engines: dict[Precision, Path], faces: Path, tmp_path: Path) -> None:
    a, b = engines[Precision.FP32], engines[Precision.INT8]
    found = diff(DiffSettings(a, b, faces, aligned=True, max_faces=FACES, save=tmp_path / "saved"))
    assert (found.a["ran"], found.b["ran"], found.faces, found.passed) == (CPU, CPU, FACES, True)
    given = np.concatenate([batch["A"] for batch in saved(tmp_path / "saved" / "a", "picture")])
    got = np.concatenate([batch["A"] for batch in saved(tmp_path / "saved" / "b", "picture")])
    assert len(given) == FACES and not np.array_equal(given, got)
    (output,) = found.outputs
    assert output.max_abs == pytest.approx(np.abs(given - got).max(), rel=1e-5)
    assert output.mean_abs == pytest.approx(np.abs(given - got).mean(), rel=1e-4)
    wanted = judge(given.transpose(0, 2, 3, 1), got.transpose(0, 2, 3, 1))
    assert found.picture is not None and found.picture_output == "picture"
    assert found.picture.ssim_drop == pytest.approx(wanted.ssim_drop, abs=1e-7)
    assert found.picture["psnr_db_worst"] == pytest.approx(wanted["psnr_db_worst"], abs=1e-4)
    json.dumps(found.as_dict(), allow_nan=False)


def saved(folder: Path, output: str) -> list[dict[str, np.ndarray]]:
    return [{"A": next(run.values())[0][output]} for run in RunResults.load_streaming(str(folder))]


def test_an_engine_equals_its_own_graph(engines: dict[Precision, Path], faces: Path) -> None:
    folder = engines[Precision.FP32]
    found = diff(DiffSettings(folder, folder / "typed.onnx", faces, aligned=True, max_faces=3, layers=True))
    assert found.outputs[0].max_abs == 0 and found.picture is not None and found.picture.ssim_drop == 0
    assert found.layers is not None and all(error.total == 0 for error in found.layers.errors)


def test_the_original_model_is_compared_by_its_path(engines: dict[Precision, Path], model: Path, faces: Path) -> None:
    """It bears the names of the typed graph's tensors, and takes its contract from the other side.

    Beside INT8, what is made for ONNX Runtime computes in FP32.
    """
    b = engines[Precision.INT8]
    found = diff(DiffSettings(model, b, faces, aligned=True, max_faces=4, layers=True, layer_faces=4, raised=2))
    assert found.layers is not None
    worst = found.layers.errors[0]
    assert worst.node.precision == "int8" and worst.gain is not None
    assert worst.node.name in {node.name for node in onnx.load(model).graph.node}
    assert {error.node.precision for error in found.layers.errors} == {"int8", "fp32"}


def test_two_bare_files_need_a_description(model: Path, faces: Path, tmp_path: Path) -> None:
    other = tiny.save(tiny.generator(seed=1), tmp_path / "other.onnx")
    with pytest.raises(BadInputError, match=r"nothing says what the inputs.*image: float32") as error:
        diff(DiffSettings(model, other, faces, aligned=True))
    assert "--preset" in error.value.remedy
    found = diff(DiffSettings(model, other, faces, preset=IMAGE, aligned=True, max_faces=2))
    assert found.picture is not None and found.picture.ssim_drop > 0.01


def test_a_description_of_what_describes_itself_is_refused(engines: dict[Precision, Path], faces: Path) -> None:
    a, b = engines.values()
    with pytest.raises(BadInputError, match="says itself how it is fed"):
        diff(DiffSettings(a, b, faces, preset=IMAGE))


def test_engines_that_are_fed_differently_are_refused(
    engines: dict[Precision, Path], settings: Settings, faces: Path, tmp_path: Path
) -> None:
    small = tiny.save(tiny.generator(size=48), tmp_path / "bigger.onnx")
    other = build(settings(Precision.FP32, onnx=small, inputs=("image=image:48:0:1",))).engines[0].folder
    with pytest.raises(BadInputError, match=r"fed differently.*size 32.*against.*size 48"):
        diff(DiffSettings(engines[Precision.FP32], other, faces))


def test_a_bare_file_that_takes_something_else_is_refused(
    engines: dict[Precision, Path], faces: Path, tmp_path: Path
) -> None:
    bigger = tiny.save(tiny.generator(size=48), tmp_path / "bigger.onnx")
    with pytest.raises(BadInputError, match=r"bigger.onnx: .*an image \[3, 32, 32\], but is \[N, 3, 48, 48\]"):
        diff(DiffSettings(engines[Precision.INT8], bigger, faces))
    swapper = tiny.save(tiny.generator(embedding=128), tmp_path / "swapper.onnx")
    with pytest.raises(BadInputError, match=r"swapper.onnx: .*not described: identity"):
        diff(DiffSettings(engines[Precision.INT8], swapper, faces))


def test_a_swapper_gets_the_same_identities_on_both_sides(settings: Settings, faces: Path, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(embedding=128), tmp_path / "swapper.onnx")
    inputs = (f"image=image:{tiny.SIZE}:0:1", "identity=embedding")
    engine = build(settings(Precision.FP32, onnx=model, inputs=inputs)).engines[0].folder
    found = diff(DiffSettings(model, engine, faces, aligned=True, max_faces=5))
    assert found.outputs[0].max_abs is not None and found.outputs[0].max_abs < 1e-5
    with pytest.raises(FacesError, match="at least 2 are needed"):
        one = tiny.write_pictures(tmp_path / "one", [1])
        diff(DiffSettings(model, engine, one, aligned=True))


def test_fixed_batches_are_filled_up_and_what_fits_nothing_is_told(model: Path, faces: Path, tmp_path: Path) -> None:
    three = tiny.save(tiny.generator(batch=3), tmp_path / "three.onnx")
    found = diff(DiffSettings(model, three, faces, preset=IMAGE, aligned=True, max_faces=4, layers=True))
    assert (found.batch, found.faces, found.outputs[0].faces) == (3, 4, 4)
    assert found.outputs[0].max_abs is not None and found.outputs[0].max_abs < 1e-5
    assert found.layers is not None and found.layers.faces == 3
    two = tiny.save(tiny.generator(batch=2), tmp_path / "two.onnx")
    with pytest.raises(
        BadInputError, match=r"no batch size fits both: two\.onnx takes 2 to 2, three\.onnx takes 3 to 3"
    ):
        diff(DiffSettings(two, three, faces, preset=IMAGE, aligned=True))


def test_an_engine_that_cannot_run_here_is_stood_in_for_and_that_is_said(
    engines: dict[Precision, Path], faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(*_: Any) -> None:
        raise BackendUnavailableError("There is no usable GPU.", "Buy one.")

    monkeypatch.setattr("trt_facefusion.inference.open.ask_machine", no_gpu)
    engine = as_tensorrt(engines[Precision.INT8])
    plain = DiffSettings(engines[Precision.FP32], engine, faces, aligned=True, max_faces=2, layers=True, raised=1)
    notes: list[str] = []
    found = diff(plain, note=notes.append)
    assert found.b["ran"] == STAND_IN and found.b["path"].endswith("typed.onnx")
    assert any("B cannot run here (There is no usable GPU)" in note for note in notes)
    assert any("layers are compared on the typed ONNX" in note for note in notes)
    notes.clear()
    asked = DiffSettings(**{**plain.__dict__, "stand_in": True, "layers": False})
    assert diff(asked, note=notes.append).outputs == found.outputs and notes == []
    with pytest.raises(BackendUnavailableError):
        diff(DiffSettings(**{**plain.__dict__, "stand_in": False}))


def test_tolerances_are_checked(engines: dict[Precision, Path], faces: Path) -> None:
    a, b = engines[Precision.FP32], engines[Precision.INT8]
    plain = DiffSettings(a, b, faces, aligned=True, max_faces=2, max_ssim_drop=1.0, atol=1.0)
    assert diff(plain).passed
    strict = diff(DiffSettings(**{**plain.__dict__, "atol": 1e-9}))
    assert not strict.passed and [check.passed for check in strict.checks] == [True, False]


def test_a_network_without_a_picture_has_no_picture_figures(faces: Path, tmp_path: Path) -> None:
    model = tiny.generator()
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("merge_out", 1, ["N", 8, 32, 32]))
    path = tiny.save(model, tmp_path / "features.onnx")
    plain = DiffSettings(path, path, faces, preset=IMAGE, aligned=True, max_faces=2, layers=True)
    found = diff(plain)
    assert found.picture is None and found.outputs[0].name == "merge_out"
    assert found.layers is not None and all(error.gain is None for error in found.layers.errors)
    with pytest.raises(BadInputError, match="--max-ssim-drop needs a picture"):
        diff(DiffSettings(**{**plain.__dict__, "max_ssim_drop": 0.1}))


def test_a_reference_that_is_broken_itself_is_told(model: Path, faces: Path, tmp_path: Path) -> None:
    broken = tiny.generator()
    bias = next(tensor for tensor in broken.graph.initializer if tensor.name == "head.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.inf, np.float32), bias.name))
    path = tiny.save(broken, tmp_path / "broken.onnx")
    for tensor in broken.graph.node:
        if tensor.name == "head.sigmoid":
            tensor.op_type = "Softplus"
    tiny.save(broken, path)
    with pytest.raises(ModelError, match=r"broken\.onnx, the reference, gives NaN or infinity on 2 of 2"):
        diff(DiffSettings(path, model, faces, preset=IMAGE, aligned=True, max_faces=2))
    found = diff(DiffSettings(model, path, faces, preset=IMAGE, aligned=True, max_faces=2, atol=9.0))
    assert found.outputs[0].nonfinite == 2 and not found.passed
    json.dumps(found.as_dict(), allow_nan=False)


def test_models_without_a_common_output_are_refused(model: Path, faces: Path, tmp_path: Path) -> None:
    other = tiny.generator()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "image_out"
    path = tiny.save(other, tmp_path / "other.onnx")
    with pytest.raises(
        BadInputError, match=r"no output in common: tiny\.onnx gives picture, other\.onnx gives image_out"
    ):
        diff(DiffSettings(model, path, faces, preset=IMAGE, aligned=True))


def test_nothing_is_written_over_and_nothing_half_written_is_left(model: Path, faces: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("keep me")
    plain = DiffSettings(model, model, faces, preset=IMAGE, aligned=True, max_faces=2, save=full)
    with pytest.raises(BadInputError, match="something is there already"):
        diff(plain)
    assert [path.name for path in full.iterdir()] == ["precious"]
    below_a_file = full / "precious" / "saved"
    with pytest.raises(StoreError) as error:
        diff(DiffSettings(**{**plain.__dict__, "save": below_a_file}))
    assert "--save" in error.value.remedy

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "judge":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diff(DiffSettings(**{**plain.__dict__, "save": tmp_path / "new"}), progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in {"engines", "cache"}) == ["full"]


def test_batches_of_an_engine_are_those_of_its_manifest(settings: Settings) -> None:
    from trt_facefusion.evaluation.comparison.sides import GPU, RunnableModel, choose_batch_size
    from trt_facefusion.inference.open import open_model

    folder = build(settings(Precision.FP32, batch=BatchRange(2, 2, 3))).engines[0].folder
    found = open_model(folder)
    with found.open_runner() as runner:
        engine, plain = RunnableModel(found, runner, GPU), RunnableModel(found, runner, CPU)
        for pair in ((engine, plain), (plain, plain)):
            batch = choose_batch_size(*pair, IMAGE, 128)
            assert (batch.size, batch.fixed) == (2, True)  # its usual batch
