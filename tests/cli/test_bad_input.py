"""Whatever is wrong with the input: one clear message, a remedy, the exit code, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper, numpy_helper
from workplace import Outcome, Workplace

Command = Callable[[list[str]], Outcome]
Refused = Callable[..., dict[str, str]]


@pytest.fixture
def refused(command: Command, place: Workplace) -> Refused:
    """Builds with the given changes, and demands a refusal that a person and a program can both read."""

    def demand(kind: str, code: int, *texts: str, **changes: Any) -> dict[str, str]:
        outcome = command([*place.options(**changes), "--json"])
        assert set(outcome.json) == {"error"}
        error: dict[str, str] = outcome.json["error"]
        assert set(error) == {"kind", "message", "remedy"}
        assert (error["kind"], outcome.code) == (kind, code), error
        assert error["message"] and error["remedy"]
        for text in texts:
            assert text in error["message"] + " " + error["remedy"]
        assert f"error: {error['message']}" in outcome.err
        assert f"what to do: {error['remedy']}" in outcome.err
        assert "Traceback" not in outcome.err
        assert place.left_behind() == []
        return error

    return demand


def bomb(path: Path) -> Path:
    """A PNG of a few bytes whose header promises 60000x60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    return path


# Options


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"batch": "4:2:1"}, ("--batch '4:2:1' is not MIN:OPT:MAX", "1:4:8")),
        ({"batch": "many"}, ("--batch 'many' is not MIN:OPT:MAX",)),
        ({"int8": None}, ("no precision is asked for", "--int8, --fp16 or --fp32")),
        ({"checkpoint": "net.pth"}, ("both --onnx and --checkpoint", "name one model")),
        ({"onnx": None, "checkpoint": "net.pth"}, ("--checkpoint needs the network", "--model module:factory")),
        ({"onnx": None, "model": "net:build"}, ("--model needs the weights", "--checkpoint FILE")),
        ({"onnx": None}, ("but none is named", "--onnx FILE")),
        ({"input": None, "preset": "nonesuch"}, ("there is no preset 'nonesuch'", "reference")),
        ({"preset": "gpen_bfr_256"}, ("both --preset and --input",)),
        ({"input": "image=painting"}, ("--input 'image=painting' is not understood", "NAME=image:SIZE:MIN:MAX")),
        ({"rule": "guess"}, ("there is no calibration rule 'guess'", "entropy")),
        ({"max_eval": 1}, ("--max-eval 1 leaves nobody", "--max-eval 0")),
        ({"bogus": True}, ("--bogus", "trt-ff build --help")),
        ({"calib": None}, ("--calib", "trt-ff build --help")),
        ({"max_ssim_drop": 7}, ("--max-ssim-drop", "trt-ff build --help")),
        ({"target": "sm999", "backend": None}, ("'sm999' is not known", "sm86")),
        ({"plan": "nowhere.yaml"}, ("the file nowhere.yaml does not exist",)),
        ({"calib_cache": "nowhere.cache"}, ("the file nowhere.cache does not exist",)),
    ],
)
def test_options_that_make_no_sense(refused: Refused, changes: dict[str, Any], texts: tuple[str, ...]) -> None:
    refused("bad_input", 2, *texts, **changes)


def test_an_unknown_command(command: Command) -> None:
    outcome = command(["biuld", "--json"])
    assert outcome.code == 2
    assert outcome.json["error"]["remedy"] == "see trt-ff --help"


# Faces


def test_no_such_folder(refused: Refused, tmp_path: Path) -> None:
    refused("faces", 2, f"there is no folder {tmp_path / 'nope'}", "Name a folder with photos", calib=tmp_path / "nope")


def test_a_file_instead_of_a_folder(refused: Refused, place: Workplace) -> None:
    refused("faces", 2, "is a file, not a folder", calib=place.model)


def test_an_empty_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    refused("faces", 2, "is empty", "Name a folder with photos", calib=tmp_path / "faces")


def test_photos_without_a_face(refused: Refused, tmp_path: Path) -> None:
    photos = tiny.write_pictures(tmp_path / "walls", range(3), size=96)
    error = refused("faces", 2, "only 0 usable faces", "3 without a face", calib=photos, aligned=None)
    assert error["message"].startswith(str(photos)) and "Add at least 32 photos" in error["remedy"]


def test_corrupt_images_only(refused: Refused, tmp_path: Path) -> None:
    for number in range(33):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8 not a photo" + bytes([number]))
    refused("faces", 2, "only 0 usable faces", "33 unreadable", "Add at least 32", calib=tmp_path)


def test_a_decompression_bomb_alone(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    bomb(tmp_path / "faces" / "big.png")
    refused("faces", 2, "1 skipped: 1 too large", calib=tmp_path / "faces")


def test_a_decompression_bomb_among_good_faces_is_skipped(
    command: Command, place: Workplace, tmp_path: Path, tiny_faces: Path
) -> None:
    shutil.copytree(tiny_faces, tmp_path / "faces")
    bomb(tmp_path / "faces" / "big.png")
    outcome = command(place.options(calib=tmp_path / "faces", json=True))
    assert outcome.code == 0 and outcome.json["engines"][0]["passed"]
    assert "pixels are more than 128 megapixels" in outcome.err


def test_too_few_faces_to_judge_on_name_their_folder(refused: Refused, tmp_path: Path) -> None:
    few = tiny.write_pictures(tmp_path / "few", [999])
    refused("faces", 2, f"{few}: only 1 usable face, at least 2 are needed", eval=few)


# The model


def broken_model(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_not_an_onnx(refused: Refused, tmp_path: Path) -> None:
    refused("model", 2, "is not an ONNX file", "again", onnx=broken_model(tmp_path / "m.onnx", b"GIF89a" * 99))


def test_an_empty_file(refused: Refused, tmp_path: Path) -> None:
    refused("model", 2, "it is not an ONNX file, or empty", onnx=broken_model(tmp_path / "m.onnx", b""))


def test_a_missing_model(refused: Refused, tmp_path: Path) -> None:
    refused("model", 2, str(tmp_path / "m.onnx"), onnx=tmp_path / "m.onnx")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
def test_a_truncated_onnx(refused: Refused, tmp_path: Path, tiny_model: Path, share: float) -> None:
    data = tiny_model.read_bytes()
    refused("model", 2, "again", onnx=broken_model(tmp_path / "m.onnx", data[: int(share * len(data))]))


def test_wrong_input_names(refused: Refused) -> None:
    refused(
        "bad_input",
        2,
        "not described: image; not in the model: photo",
        "The model takes image: float32 [N, 3, 32, 32]",
        "--input image=image:32:0:1",
        input="photo=image:32:0:1",
    )


def test_a_wrong_size(refused: Refused) -> None:
    described = "'image' is described as an image [3, 64, 64], but is [N, 3, 32, 32]"
    refused("bad_input", 2, described, "image: float32 [N, 3, 32, 32]", input="image=image:64:0:1")


def test_a_missing_description_shows_the_inputs(refused: Refused, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(embedding=128), tmp_path / "m.onnx")
    shown = "The model takes image: float32 [N, 3, 32, 32]; identity: float32 [N, 128]"
    example = "--input image=image:32:0:1 --input identity=embedding"
    refused("bad_input", 2, shown, example, "--preset", onnx=model, input=None)


def test_an_input_that_is_not_described(refused: Refused, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(embedding=128), tmp_path / "m.onnx")
    refused("bad_input", 2, "not described: identity", "--input identity=embedding", onnx=model)


def test_an_embedding_of_another_length(refused: Refused, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(embedding=512), tmp_path / "m.onnx")
    inputs = ("image=image:32:0:1", "identity=embedding")
    said = "'identity' is described as an embedding of 128 values"
    refused("bad_input", 2, said, "--embedder", "identity: float32 [N, 512]", onnx=model, input=inputs)


def test_values_that_cannot_be_read(refused: Refused, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(embedding=8), tmp_path / "m.onnx")
    values = tmp_path / "v.npy"
    values.write_bytes(b"\x93NUMPY cut off")
    inputs = ("image=image:32:0:1", f"identity=file:{values}")
    refused("bad_input", 2, "identity", "numpy.save", onnx=model, input=inputs)
    values.unlink()
    refused("bad_input", 2, f"{values} does not exist", onnx=model, input=inputs)


def test_nan_weights(refused: Refused, tmp_path: Path) -> None:
    model = tiny.generator()
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values.flat[3] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, model.graph.initializer[0].name))
    refused("model", 2, "1 values that are NaN", "use another", onnx=tiny.save(model, tmp_path / "m.onnx"))


def test_a_model_without_a_picture(refused: Refused, tmp_path: Path) -> None:
    model = tiny.generator()
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["picture"], ["mean"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("mean", 1, ["N", 3, 1, 1]))
    refused("model", 2, "no output of the model is a picture", onnx=tiny.save(model, tmp_path / "m.onnx"))


def test_a_fixed_batch_that_is_not_asked_for(refused: Refused, tmp_path: Path) -> None:
    model = tiny.save(tiny.generator(batch=3), tmp_path / "m.onnx")
    refused("bad_input", 2, "a fixed batch of 3", "--batch 3", onnx=model, batch="1:2:3")


def test_an_operator_from_nowhere(refused: Refused, tmp_path: Path) -> None:
    model = tiny.generator()
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    refused("model", 2, onnx=tiny.save(model, tmp_path / "m.onnx"))


def test_an_operator_that_the_engine_maker_refuses(command: Command, place: Workplace) -> None:
    pytest.importorskip("tensorrt_rtx")
    network = tiny.generator(extra="Relu")
    pool = next(node for node in network.graph.node if node.name == "extra")
    pool.op_type = "MaxPool"
    pool.attribute.extend([helper.make_attribute("kernel_shape", [1, 1]), helper.make_attribute("dilations", [2, 2])])
    model = tiny.save(network, place.root / "m.onnx")
    onnx.checker.check_model(onnx.load(model), full_check=True)
    outcome = command(place.options(onnx=model, backend="tensorrt-rtx", json=True))
    assert (outcome.code, outcome.json["error"]["kind"]) == (5, "build")
    assert "node 'extra' (MaxPool)" in outcome.json["error"]["message"]
    assert "--backend onnxruntime" in outcome.json["error"]["remedy"]
    assert "Traceback" not in outcome.err
    assert not place.left_behind()  # told before the faces are even read


# Plan and calibration


def plan_file(path: Path, *rows: str) -> Path:
    path.write_text("schema: 1\nmodel: tiny\nmodel_digest: x\nnodes:\n" + "".join(f"- {row}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ("{name: ghost, precision: int8}", ("names 1 nodes that the model does not have: ghost",)),
        ("{name: head, precision: int4}", ("gives head the precision 'int4'", "int8, fp16, fp32")),
        ("{name: skip, precision: int8}", ("puts skip (Concat) into int8, which is not possible",)),
        ("{precision: int8}", ("no list `nodes` whose entries have a `name`",)),
        ("{name: [", ("the plan is not YAML",)),
    ],
)
def test_a_plan_that_does_not_fit(refused: Refused, tmp_path: Path, row: str, texts: tuple[str, ...]) -> None:
    refused("plan", 2, *texts, plan=plan_file(tmp_path / "plan.yaml", row))


def test_a_damaged_calibration_cache_that_was_named(refused: Refused, tmp_path: Path) -> None:
    table = tmp_path / "t.cache"
    table.write_text("TRT-101601-EntropyCalibration2\nimage: 3c01\n")
    refused("calibration_cache", 2, "line 2", "eight hex digits", "calibrate again", calib_cache=table)


def test_a_calibration_cache_without_the_ranges(refused: Refused, tmp_path: Path) -> None:
    table = tmp_path / "t.cache"
    table.write_text("TRT-101601-EntropyCalibration2\nimage: 3c010204\n")
    refused("calibration_cache", 2, "no range for the tensor", calib_cache=table)


def test_a_damaged_stored_calibration_is_made_anew_and_says_so(command: Command, place: Workplace) -> None:
    assert command(place.options()).code == 0
    table = next(place.cache.glob("*.cache"))
    good = table.read_text()
    table.write_text(good[: len(good) // 2])
    outcome = command(place.options(force=True))
    assert outcome.code == 0
    assert "calibrating anew" in outcome.err and str(table) in outcome.err
    assert table.read_text() == good


# The backend


def test_a_missing_engine_maker(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    refused("backend_unavailable", 4, "tensorrt-rtx", "pip install 'tensorrt-rtx", backend="tensorrt-rtx")
    refused("backend_unavailable", 4, "sm86", "--target cpu", backend=None, target="sm86")


def test_without_a_named_target_a_missing_engine_maker_means_the_cpu(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("tensorrt_rtx", "openvino"):
        monkeypatch.setitem(sys.modules, missing, None)
    outcome = command(place.options(backend=None, json=True))
    assert outcome.code == 0
    assert (outcome.json["engines"][0]["backend"], outcome.json["engines"][0]["target"]) == ("onnxruntime", "cpu")
    assert "warning: no sm86 engine" in outcome.err


def test_an_unknown_engine_maker(refused: Refused) -> None:
    refused("backend_unavailable", 4, "no backend 'abacus'", "onnxruntime", backend="abacus", target="sm86")


def test_the_message_is_the_same_without_json(command: Command, place: Workplace) -> None:
    outcome = command(place.options(calib="/nowhere"))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines()[-2] == "error: there is no folder /nowhere"
    assert outcome.err.splitlines()[-1].startswith("what to do: ")


def test_a_bug_is_one_json_object_too(command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("trt_facefusion.cli.build.build", explode)
    outcome = command([*place.options(), "--json"])
    assert outcome.code == 1
    assert outcome.json["error"]["kind"] == "internal" and "boom" in outcome.json["error"]["message"]
    assert "Traceback" in outcome.err
    assert json.loads(outcome.out) == outcome.json
