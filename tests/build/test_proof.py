"""The proof begins at the file: what was handed in is what everything is held against, before any work."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper
from tiny import Settings

from trt_facefusion.build import face_sets, stages
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.run import build
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BadInputError, BuildError, ModelError, PreparationError
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.inference import described as fitted_module
from trt_facefusion.model.export import CheckpointSource
from trt_facefusion.types import Array, BatchRange, Precision

INT8, FP16, FP32 = Precision.INT8, Precision.FP16, Precision.FP32
CHANNELS = 8


def weight(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng(sum(map(ord, name)))
    fan = max(int(np.prod(shape[1:])), 1)
    return numpy_helper.from_array((rng.standard_normal(shape) * 1.4 / np.sqrt(fan)).astype(np.float32), name)


def network(
    path: Path,
    middle: Sequence[onnx.NodeProto],
    constants: dict[str, Array] | None = None,
    *,
    opset: int = 20,
    batch: int | str = "N",
) -> Path:
    """conv, relu [x] -> ``middle`` [y] -> conv, sigmoid, on pictures of 32 px in 0..1."""
    shape = [batch, 3, tiny.SIZE, tiny.SIZE]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["x"], "relu1"),
        *middle,
        helper.make_node("Conv", ["y", "w2"], ["b"], "conv2", pads=[1] * 4),
        helper.make_node("Sigmoid", ["b"], ["picture"], "sigmoid"),
    ]
    weights = [weight("w1", CHANNELS, 3, 3, 3), weight("w2", 3, CHANNELS, 3, 3)]
    weights += [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "picture")]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4 if opset < 11 else 9)
    onnx.save(model, path)
    return path


def resized(path: Path, op: str, opset: int) -> Path:
    """Case 01: up to opset 10, Resize and Upsample are asymmetric."""
    middle = [
        helper.make_node("AveragePool", ["x"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(op, ["p", "scales"], ["y"], "up", mode="linear"),
    ]
    return network(path, middle, {"scales": np.array([1, 1, 2, 2], np.float32)}, opset=opset)


def training_norm(path: Path) -> Path:
    """Case 02."""
    names = {"scale": np.ones, "bias": np.zeros, "mean": np.zeros, "var": np.ones}
    constants = {name: make(CHANNELS, np.float32) for name, make in names.items()}
    node = helper.make_node("BatchNormalization", ["x", *names], ["y", "rm", "rv"], "bn", training_mode=1)
    return network(path, [node], constants)


def noisy(path: Path) -> Path:
    """Case 03."""
    middle = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], "inject_noise", scale=0.3),
        helper.make_node("Add", ["x", "noise"], ["y"], "add_noise"),
    ]
    return network(path, middle)


def spread_of_minibatch(path: Path) -> Path:
    """A discriminator's trick, behind a Transpose that hides the batch from any look at shapes."""
    middle = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[1, 0, 2, 3]),
        helper.make_node("ReduceMean", ["t", "axes"], ["m"], "over_samples", keepdims=1),
        helper.make_node("Sub", ["t", "m"], ["d"], "centre"),
        helper.make_node("Transpose", ["d"], ["y"], "back", perm=[1, 0, 2, 3]),
    ]
    return network(path, middle, {"axes": np.array([1])})


def run_file(path: Path, faces: Array) -> Array:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.ascontiguousarray(np.asarray(faces).astype(np.float32).transpose(0, 3, 1, 2) / 255)
    pictures = [session.run(["picture"], {"image": x[i : i + 1]})[0] for i in range(len(x))]
    return np.concatenate(pictures).transpose(0, 2, 3, 1)


def built(settings: object) -> EngineResult:
    return build(settings).engines[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(("op", "opset"), [("Resize", 10), ("Upsample", 9)])
def test_an_engine_never_silently_differs_from_the_users_own_file(
    settings: Settings, tmp_path: Path, op: str, opset: int
) -> None:
    """Either the old operator is kept as it is, or the change is an error of ours that names it."""
    path = resized(tmp_path / "old.onnx", op, opset)
    asked = settings(FP32, onnx=path)
    try:
        engine = built(asked)
    except PreparationError as error:
        assert "'up'" in error.message and "not of your file" in error.remedy
        return
    faces = read_inputs(open_job(asked)).faces.verification.crops
    drop = 1 - measure_ssim(run_file(path, faces), run_file(next(engine.folder.glob("engine.onnx")), faces)).mean()
    assert drop < 1e-4 and engine.manifest.accuracy["prepared"]["ssim_drop"] < 1e-4


def broken_prepare(change: Callable[[onnx.ModelProto], None]) -> Callable[..., object]:
    real = fitted_module.prepare

    def prepare(*args, **kwargs):
        prepared = real(*args, **kwargs)
        change(prepared.model)
        return prepared

    return prepare


def test_a_preparation_that_changes_the_picture_names_its_node(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(model: onnx.ModelProto) -> None:
        kept = next(node for node in model.graph.node if node.name == "block1.conv1")
        pads = next(a for a in kept.attribute if a.name == "pads")
        pads.ints[:] = [2, 2, 0, 0]

    monkeypatch.setattr(fitted_module, "prepare", broken_prepare(change))
    with pytest.raises(PreparationError, match=r"changed the picture by .* SSIM.*node 'block1\.conv1' \(Conv\)"):
        built(settings(INT8))


def test_engines_are_judged_against_the_file_and_say_so(settings: Settings, model: Path) -> None:
    asked = settings(FP16)
    manifest = built(asked).manifest
    crops = read_inputs(open_job(asked)).faces.verification.crops
    wanted = run_file(model, crops)
    got = run_file(next(asked.output.glob("*/fp16*/engine.onnx")), crops)
    assert manifest.accuracy["ssim_drop"] == pytest.approx(1 - measure_ssim(wanted, got).mean(), abs=1e-6)
    assert manifest.accuracy["reference"].startswith("the file as it was handed in, run by onnxruntime")
    prepared = manifest.accuracy["prepared"]
    assert prepared["faces"] == manifest.accuracy["faces"] and prepared["max_difference"] < 1e-4
    assert manifest.inputs.settings["limits"]["max_ssim_drop"] == 0.003


def test_a_file_in_half_precision_is_its_own_reference(settings: Settings, tmp_path: Path) -> None:
    from onnx import numpy_helper as nh

    path = network(tmp_path / "half.onnx", [helper.make_node("Relu", ["x"], ["y"], "r")])
    half = onnx.load(path)
    for tensor in half.graph.initializer:
        tensor.CopyFrom(nh.from_array(nh.to_array(tensor).astype(np.float16), tensor.name))
    half.graph.node[0].input[0], half.graph.node[-1].output[0] = "image_h", "picture_h"
    half.graph.node.insert(0, helper.make_node("Cast", ["image"], ["image_h"], "in", to=TensorProto.FLOAT16))
    half.graph.node.append(helper.make_node("Cast", ["picture_h"], ["picture"], "out", to=TensorProto.FLOAT))
    onnx.save(half, path)
    engine = built(settings(FP32, onnx=path))
    assert engine.as_asked and engine.manifest.accuracy["prepared"]["limits"]["ssim_drop"] == 0.003


def test_batch_statistics_are_told_before_any_photo_is_read(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*args: object, **kwargs: object) -> None:
        pytest.fail("photos were read")

    monkeypatch.setattr(face_sets, "read_faces", unread)
    with pytest.raises(ModelError, match=r"bn \(BatchNormalization\) normalises over the batch"):
        built(settings(INT8, onnx=training_norm(tmp_path / "bn.onnx")))


def test_what_mixes_samples_is_built_where_there_is_one_only(settings: Settings, tmp_path: Path) -> None:
    middle = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], "mean", keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"], "centre"),
    ]
    paths = {b: network(tmp_path / f"{b}.onnx", middle, {"axes": np.array([0, 2, 3])}, batch=b) for b in (1, "N")}
    assert built(settings(FP32, onnx=paths[1])).as_asked
    with pytest.raises(ModelError, match=r"mean \(ReduceMean\) reduces over the batch"):
        built(settings(FP32, onnx=paths["N"]))


def test_what_mixes_samples_unseen_is_found_by_running_and_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(over_samples|centre|back) mixes the faces of a batch"):
        built(settings(INT8, onnx=spread_of_minibatch(tmp_path / "spread.onnx")))


def test_noise_is_told_by_name_and_can_be_fixed(settings: Settings, tmp_path: Path) -> None:
    path = noisy(tmp_path / "noisy.onnx")
    with pytest.raises(ModelError, match=r"inject_noise .* is random, no verdict is possible") as caught:
        built(settings(FP16, onnx=path))
    assert "--noise" in caught.value.remedy
    engines = {noise: built(settings(FP16, onnx=path, noise=noise)) for noise in ("zero", "seed", "seed:7")}
    assert len({engine.manifest.build_key for engine in engines.values()}) == 3
    for noise, engine in engines.items():
        assert engine.as_asked and engine.manifest.accuracy["ssim_drop"] < 1e-3
        assert engine.manifest.inputs.settings["noise"]["nodes"] == ["inject_noise"]
        assert any("noise is fixed" in warning and "inject_noise" in warning for warning in engine.manifest.warnings)
        assert ("--noise", noise) in zip(engine.manifest.command, engine.manifest.command[1:], strict=False)


def test_noise_is_fixed_where_the_weights_lie_beside_the_file(settings: Settings, tmp_path: Path) -> None:
    path = noisy(tmp_path / "noisy.onnx")
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert built(settings(FP16, onnx=path, noise="seed:3")).as_asked


def test_the_reference_of_a_torch_network_is_torch(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "nets_of_proof.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.c = torch.nn.Conv2d(3, 3, 3, padding=1)\n"
        "    def forward(self, image):\n"
        "        return torch.sigmoid(self.c(image))\n"
        "def build():\n"
        "    return Net()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    net = importlib.import_module("nets_of_proof").build()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    source = CheckpointSource(tmp_path / "net.pth", "nets_of_proof:build")
    manifest = built(settings(FP16, source=source)).manifest
    assert manifest.accuracy["reference"].startswith("the torch network, run by torch ")
    assert 0 < manifest.accuracy["prepared"]["max_difference"] < 1e-5


def test_noise_that_is_not_there_cannot_be_fixed(settings: Settings) -> None:
    with pytest.raises(BadInputError, match="no random"):
        built(settings(FP16, noise="zero"))


@pytest.mark.parametrize(("batch", "judged"), [(BatchRange(1, 1, 1), 1), (BatchRange(1, 3, 4), 3)])
def test_the_batch_that_is_built_is_the_batch_that_is_judged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, batch: BatchRange, judged: int
) -> None:
    sizes: set[int] = set()
    real = OnnxRuntimeRunner.infer

    def infer(self, feeds):
        if self._ours == "the lowered fp16 graph":
            sizes.add(len(feeds["image"]))
        return real(self, feeds)

    monkeypatch.setattr(OnnxRuntimeRunner, "infer", infer)
    assert built(settings(FP16, batch=batch)).manifest.accuracy["batch"] == judged
    assert sizes == {judged}


def test_a_batch_axis_that_is_dynamic_in_name_only(settings: Settings, tmp_path: Path) -> None:
    middle = [helper.make_node("Reshape", ["x", "one"], ["y"], "reshape")]
    path = network(tmp_path / "one.onnx", middle, {"one": np.array([1, CHANNELS, tiny.SIZE, tiny.SIZE])})
    try:
        engine = built(settings(INT8, onnx=path))
    except ModelError as error:
        assert "shapes do not fit" in error.message  # refused by its shapes, not halfway
    else:
        assert engine.manifest.accuracy["batch"] == 1


# Is the picture plausible?


def restorer(path: Path) -> Path:
    """A network for 0..1 RGB that sharpens a little, and clips."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for channel in range(3):
        kernel[channel, channel] = -0.05
        kernel[channel, channel, 1, 1] = 1.4
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["a"], "sharpen", pads=[1] * 4),
        helper.make_node("Clip", ["a", "low", "high"], ["picture"], "clip"),
    ]
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3, 64, 64]) for n in ("image", "picture")]
    constants = {"kernel": kernel, "low": np.float32(0), "high": np.float32(1)}
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_a_wrong_description_is_told_with_the_figures_and_the_right_one(
    settings: Settings, tmp_path: Path, sample_faces: Path
) -> None:
    asked = {"onnx": restorer(tmp_path / "r.onnx"), "calib": sample_faces, "max_calib": 8, "max_eval": 4}
    wrong = ("image=image:64:-1:1:bgr",)
    engine = built(settings(FP32, inputs=wrong, **asked))
    (warning,) = [text for text in engine.manifest.warnings if "look wrong" in text]
    assert "resemble" in warning and "did you mean --input image=image:64:0:1 or" in warning
    with pytest.raises(BadInputError, match="look wrong") as caught:
        built(settings(FP16, inputs=wrong, strict=True, **asked))
    assert "--input image=image:64:0:1 or" in caught.value.remedy
    right = built(settings(FP16, inputs=("image=image:64:0:1",), strict=True, **asked))
    assert right.as_asked and not any("look wrong" in text for text in right.manifest.warnings)
    assert right.manifest.inputs.settings["looks"]["resemblance"] > 0.8


def test_a_network_without_training_is_no_error_even_when_strict(settings: Settings) -> None:
    assert built(settings(FP16, strict=True)).as_asked


# A fault of the lowered graph


def test_a_lowered_graph_that_fails_steps_down_and_names_the_node(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stages.lower

    def lower(view, plan, *args, **kwargs):
        typed = real(view, plan, *args, **kwargs)
        if any(node.precision is FP16 for node in plan.nodes):
            spoiled = onnx.ModelProto()
            spoiled.CopyFrom(typed)
            del spoiled.graph.value_info[:]
            conv = next(node for node in spoiled.graph.node if node.name == "block1.conv1")
            next(a for a in conv.attribute if a.name == "pads").ints[:] = [0, 0, 0, 0]
            return spoiled
        return typed

    monkeypatch.setattr(stages, "lower", lower)
    notes: list[str] = []
    engine = build(settings(FP16), note=notes.append).engines[0]
    assert engine.manifest.precision == "fp32" and len(engine.fallback) == 1
    assert "block1." in engine.fallback[0].reason and "lowered fp16 graph" in engine.fallback[0].reason
    assert not any("export" in note.lower() for note in notes)
    with pytest.raises(BuildError, match="block1"):
        build(settings(FP16, strict=True, force=True))


# Shown afterwards


def test_diff_holds_both_sides_against_the_file_that_they_were_built_from(
    settings: Settings, faces: Path, model: Path
) -> None:
    result = build(settings(FP32, FP16))
    a, b = (engine.folder for engine in result.engines)
    found = diff(DiffSettings(a, b, faces, aligned=True, max_faces=4))
    assert found.file is not None and found.file.path == model and found.picture is not None
    assert found.file.a.max_difference < 1e-5 < found.file.b.max_difference
    assert found.file.b.ssim_drop == pytest.approx(found.picture.ssim_drop, abs=1e-6)
    assert found.as_dict()["against_file"]["prepared"]["ssim_drop"] < 1e-4
    json.dumps(found.as_dict(), allow_nan=False)


def test_diff_says_so_where_the_file_has_changed(settings: Settings, faces: Path, tmp_path: Path) -> None:
    path = tiny.save(tiny.generator(), tmp_path / "net.onnx")
    folder = built(settings(FP32, onnx=path)).folder
    tiny.save(tiny.generator(seed=3), path)
    notes: list[str] = []
    found = diff(DiffSettings(folder, folder, faces, aligned=True, max_faces=2), note=notes.append)
    assert found.file is None and any("not the file any more" in note for note in notes)


def test_a_manifest_of_before_is_still_read(settings: Settings, faces: Path) -> None:
    folder = built(settings(FP32)).folder
    text = json.loads((folder / "manifest.json").read_text())
    for key in ("reference", "batch", "prepared"):
        del text["accuracy"][key]
    for key in ("limits", "looks"):
        del text["inputs"]["settings"][key]
    (folder / "manifest.json").write_text(json.dumps(text))
    Manifest.from_json((folder / "manifest.json").read_text())
    found = diff(DiffSettings(folder, folder, faces, aligned=True, max_faces=2))
    assert found.file is not None and found.file.prepared is None
