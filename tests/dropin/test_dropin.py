"""An engine as a file for other tools: opened and fed as insightface and FaceFusion do it, it gives the same picture.

The generator is inswapper in small: its inputs in its order, a batch of one, and a matrix for embeddings that no node
reads and that does not stand last in the original.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from onnx import numpy_helper
from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.cli.main import run
from trt_facefusion.dropin.border import Border
from trt_facefusion.dropin.export import DropinRequest, export_dropin
from trt_facefusion.dropin.graph import make_dropin
from trt_facefusion.dropin.ranges import serialise_ranges
from trt_facefusion.errors import BadInputError
from trt_facefusion.inference.identity import encode_identity
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets import get_preset
from trt_facefusion.types import Precision, TensorSpec

EMAP = np.random.default_rng(3).normal(0, 0.05, (512, 512)).astype(np.float32)
RAW = np.random.default_rng(4).normal(0, 2, (1, 512)).astype(np.float32)
CROP = tiny.picture(77, 128)
STEP = 1 / 255


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nets.swapper(size=128, embedding=512)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.initializer.insert(0, numpy_helper.from_array(EMAP, "buff2fs"))
    return tiny.save(model, tmp_path_factory.mktemp("original") / "inswapper.onnx")


@pytest.fixture(scope="module")
def engines(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., OpenedModel]]:
    """Opens the engine of a precision, built for a backend once."""
    folder = tmp_path_factory.mktemp("dropin")
    faces = tiny.write_pictures(folder / "faces", range(40), size=128)
    arcface = nets.save_arcface(folder / "arcface.onnx")
    opened: dict[tuple[Precision, str], OpenedModel] = {}

    def give(precision: Precision, backend: str = "onnxruntime") -> OpenedModel:
        if (precision, backend) not in opened:
            settings = BuildSettings(
                source=OnnxSource(original),
                preset=get_preset("inswapper_128"),
                precisions=(precision,),
                calib=faces,
                aligned=True,
                embedder=arcface,
                backend=backend,
                rule="max",
                corrections="none",
                planner="rules",
                limits={"max_ssim_drop": 0.5},
                output=folder / "engines",
                cache=folder / "cache",
            )
            (result,) = build(settings).engines
            assert result.manifest.precision == precision.value
            opened[precision, backend] = open_model(result.folder)
        return opened[precision, backend]

    yield give


def swap_as_insightface(file: Path) -> np.ndarray:
    """Opened and fed as its INSwapper does: the last initializer, inputs by place, BGR crops -> RGB 0..1 [H,W,3]."""
    emap = numpy_helper.to_array(onnx.load(file).graph.initializer[-1])
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    target, source = (value.name for value in session.get_inputs())
    (output,) = (value.name for value in session.get_outputs())
    assert tuple(session.get_inputs()[0].shape[2:4]) == (128, 128)
    latent = (RAW / np.linalg.norm(RAW)) @ emap
    latent /= np.linalg.norm(latent)
    blob = cv2.dnn.blobFromImage(CROP[:, :, ::-1], 1 / 255, (128, 128), (0, 0, 0), swapRB=True)
    return session.run([output], {target: blob, source: latent})[0][0].transpose(1, 2, 0)


def swap_as_facefusion(file: Path) -> np.ndarray:
    """Fed by name, the first output taken."""
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    emap = numpy_helper.to_array(onnx.load(file).graph.initializer[-1])
    latent = (RAW / np.linalg.norm(RAW)) @ emap
    latent /= np.linalg.norm(latent)
    crop = np.expand_dims((CROP.astype(np.float32) / 255).transpose(2, 0, 1), 0)
    return session.run(None, {"source": latent, "target": crop})[0][0].transpose(1, 2, 0)


def swap_by_engine(model: OpenedModel) -> np.ndarray:
    assert model.contract is not None
    preset = model.contract.preset
    assert preset.embedding is not None
    feeds = {
        "target": preset.image.encode(CROP[None]),
        "source": encode_identity(preset.embedding, RAW, tiny.Glance(), model.contract.projection),
    }
    with model.open_runner(stand_in=model.needs_gpu) as runner:
        return preset.output.decode(runner.infer(feeds)["output"])[0]


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.clip(0, 1) - b.clip(0, 1)).max())


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_the_file_gives_the_picture_of_the_engine(
    engines: Callable[..., OpenedModel], precision: Precision, tmp_path: Path
) -> None:
    model = engines(precision)
    notes = export_dropin(model, DropinRequest(tmp_path / "swap.onnx"))
    picture = swap_by_engine(model)
    assert picture.std() > 0.02
    for swap in (swap_as_insightface, swap_as_facefusion):
        assert largest_difference(swap(tmp_path / "swap.onnx"), picture) <= STEP
    assert not notes.difference.visible


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_the_file_of_a_gpu_engine_gives_its_picture(
    engines: Callable[..., OpenedModel], precision: Precision, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = engines(precision, "tensorrt-rtx")
    notes = export_dropin(model, DropinRequest(tmp_path / "swap.onnx"))
    assert notes.content.half and not notes.content.for_cpu and notes.providers[0].startswith("Tensorrt")
    assert notes.content.quantised == (precision is Precision.INT8)
    swapped, picture = swap_as_insightface(tmp_path / "swap.onnx").clip(0, 1), swap_by_engine(model).clip(0, 1)
    difference = np.abs(swapped - picture)
    if precision is Precision.FP16:
        assert difference.max() <= STEP and not notes.difference.visible
    else:  # onnxruntime's CPU rounds elsewhere than the engine, and a quantiser turns that into a whole level
        assert difference.mean() <= STEP and notes.difference.mean <= STEP


def test_the_border_is_that_of_the_original(
    engines: Callable[..., OpenedModel], original: Path, tmp_path: Path
) -> None:
    export_dropin(engines(Precision.INT8), DropinRequest(tmp_path / "swap.onnx", original=original))
    before, after = (onnx.load(path) for path in (original, tmp_path / "swap.onnx"))
    for side in ("input", "output"):
        assert [(v.name, v.type) for v in getattr(before.graph, side)] == [
            (v.name, v.type) for v in getattr(after.graph, side)
        ]
    last = after.graph.initializer[-1]
    assert last.name == "buff2fs" and np.array_equal(numpy_helper.to_array(last), EMAP)
    assert after.opset_import[0].version <= 21 and after.ir_version <= 10


def test_notes_say_what_tools_and_providers_need(
    engines: Callable[..., OpenedModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = engines(Precision.INT8).engine.parent
    assert run(["export", str(folder), "--for", "onnxruntime", "-o", str(tmp_path / "swap.onnx"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "swap.json").read_text())
    assert printed["as_in_the_original"] and printed["embedding_matrix"] == "buff2fs"
    assert printed["crc32"] == format(zlib.crc32((tmp_path / "swap.onnx").read_bytes()), "08x")
    assert printed["providers"] == ["CPUExecutionProvider"]  # quantised to uint8: an engine for the CPU
    assert set(printed["tools"]) == {"insightface", "facefusion", "deep-live-cam"}


def read_table(path: Path) -> dict[str, float]:
    table = TrtTable.GetRootAsTrtTable(path.read_bytes(), 0)
    pairs = (table.Dict(index) for index in range(table.DictLength()))
    return {pair.Key().decode(): float(pair.Value()) for pair in pairs}


def test_a_table_for_tensorrt_10_holds_ranges_of_the_originals_tensors(
    engines: Callable[..., OpenedModel], original: Path, tmp_path: Path
) -> None:
    request = DropinRequest(tmp_path / "swap.onnx", table=tmp_path / "swap.flatbuffers")
    notes = export_dropin(engines(Precision.INT8), request)
    ranges = read_table(tmp_path / "swap.flatbuffers")
    known = {name for node in onnx.load(original).graph.node for name in node.output} | {"target", "source"}
    assert len(ranges) > 3 and ranges.keys() <= known and all(amax > 0 for amax in ranges.values())
    table = notes.as_dict()["calibration_table"]
    assert table["provider_options"]["trt_int8_calibration_table_name"] == "swap.flatbuffers"


def test_a_table_is_what_onnxruntimes_own_writer_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.quantization import write_calibration_table
    from onnxruntime.quantization.calibrate import TensorData

    amax = {"b": 2.5, "a": 0.125, "weights/c:0": 3e-5}
    ours = tmp_path / "ours.flatbuffers"
    ours.write_bytes(serialise_ranges(amax))
    tensors = {name: TensorData(lowest=np.float32(-reach), highest=np.float32(reach)) for name, reach in amax.items()}
    monkeypatch.chdir(tmp_path)
    write_calibration_table(tensors)
    theirs = read_table(tmp_path / "calibration.flatbuffers")
    assert read_table(ours) == pytest.approx(theirs) and list(read_table(ours)) == sorted(amax)


def test_types_that_differ_from_the_originals_are_cast_at_the_border() -> None:
    model = nets.swapper()
    before = {spec.name: spec for spec in (TensorSpec("target", (2, 3, 32, 32), "float16"),)}
    border = Border(
        (TensorSpec("source", (2, 64), "float64"), before["target"]), (TensorSpec("output", (2, 3, 32, 32), "float16"),)
    )
    feeds = nets.feeds(nets.SWAPPER_SHAPES)
    expected = nets.run(model, feeds)["output"]
    changed = make_dropin(model, border, None, {})
    session = ort.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["source", "target"]
    (picture,) = session.run(
        None, {"source": feeds["source"].astype(np.float64), "target": feeds["target"].astype(np.float16)}
    )
    assert picture.dtype == np.float16 and np.abs(picture.astype(np.float32) - expected).max() < 5e-3


def test_what_is_no_engine_or_another_original_is_refused(
    engines: Callable[..., OpenedModel], original: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="no engine"):
        export_dropin(open_model(original), DropinRequest(tmp_path / "swap.onnx"))
    other = tiny.save(nets.swapper(), tmp_path / "other.onnx")
    with pytest.raises(BadInputError, match="not the file that the engine was made from"):
        export_dropin(engines(Precision.INT8), DropinRequest(tmp_path / "swap.onnx", original=other))
    assert not (tmp_path / "swap.onnx").exists()
