from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import SWAPPER_SHAPES, feeds, swapper

import trt_facefusion
from trt_facefusion.errors import ModelError, StoreError
from trt_facefusion.model import messages
from trt_facefusion.model.messages import count_tensor_bytes, hash_model, serialise_model, strip_weights
from trt_facefusion.model.sessions import make_session_options, open_session


@pytest.fixture
def tiny_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protobuf's limit, lowered so that a small network passes it."""
    monkeypatch.setattr(messages, "ONE_PIECE_BYTES", 1 << 10)


def picture(model: object) -> np.ndarray:
    return open_session(model).run(None, feeds(SWAPPER_SHAPES))[0]


@pytest.mark.parametrize("given", ["bytes", "path", "message"])
def test_a_session_opens_from_bytes_files_and_messages(given: str, tmp_path: Path) -> None:
    model = swapper()
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    source = {"bytes": model.SerializeToString(), "path": tmp_path / "net.onnx", "message": model}[given]
    np.testing.assert_array_equal(picture(source), picture(model))


@pytest.mark.usefixtures("tiny_messages")
def test_a_model_above_the_limit_runs_and_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = swapper()
    before = model.SerializeToString()
    painted = picture(model)
    assert model.SerializeToString() == before
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    np.testing.assert_array_equal(painted, picture(model))


@pytest.mark.usefixtures("tiny_messages")
def test_a_temporary_folder_that_is_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trt_facefusion.model.sessions.write_with_data", full)
    with pytest.raises(StoreError, match="No space left") as error:
        open_session(swapper())
    assert "TMPDIR" in error.value.remedy


@pytest.mark.usefixtures("tiny_messages")
def test_a_model_above_the_limit_is_not_put_into_one_piece() -> None:
    with pytest.raises(ModelError, match="2 GiB"):
        serialise_model(swapper())


def test_the_digest_of_a_small_model_is_that_of_its_bytes() -> None:
    model = swapper()
    assert hash_model(model).hexdigest() == hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


@pytest.mark.usefixtures("tiny_messages")
@pytest.mark.parametrize("size", [1 << 17, 1 << 19])
def test_the_digest_of_a_large_model_changes_with_any_weight(size: int) -> None:
    model = swapper()
    big = np.zeros(size, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(big, "big"))
    before = hash_model(model).hexdigest()
    assert hash_model(model).hexdigest() == before
    big[size // 2] = 1e-30
    model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(big, "big"))
    assert hash_model(model).hexdigest() != before


def test_weights_that_are_left_out_keep_name_type_and_shape() -> None:
    model = swapper()
    lean = strip_weights(model, 1 << 10)
    assert [(t.name, t.dims, t.data_type) for t in lean.graph.initializer] == [
        (t.name, t.dims, t.data_type) for t in model.graph.initializer
    ]
    assert lean.ByteSize() < model.ByteSize() / 2
    assert any(count_tensor_bytes(t) and not t.raw_data for t in lean.graph.initializer)
    assert strip_weights(model, 1 << 30) == model


def test_sessions_print_nothing() -> None:
    assert make_session_options().log_severity_level == 4
    assert make_session_options(3).intra_op_num_threads == 3
    assert make_session_options().get_session_config_entry("session.force_spinning_stop") == "1"


def branching() -> onnx.ModelProto:
    """The swapper with its last convolution in both branches of an If, as a plan search has it."""
    model = swapper()
    node = next(n for n in model.graph.node if n.name == "to_rgb")
    weights = {t.name: t for t in model.graph.initializer if t.name in node.input}
    branches = []
    for factor in (1.0, -1.0):
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        name = f"branch{factor}"
        inner.input[1:], inner.output[:] = [f"{name}/{i}" for i in node.input[1:]], [f"{name}/out"]
        constants = [
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights[i]) * np.float32(factor), f"{name}/{i}")
            for i in node.input[1:]
        ]
        output = onnx.helper.make_tensor_value_info(f"{name}/out", onnx.TensorProto.FLOAT, None)
        branches.append(onnx.helper.make_graph([inner], name, [], [output], constants))
    outputs = list(node.output)
    node.CopyFrom(onnx.helper.make_node("If", ["flag"], outputs, "to_rgb"))
    node.attribute.extend(
        onnx.helper.make_attribute(f"{kind}_branch", b) for kind, b in zip(("then", "else"), branches, strict=True)
    )
    model.graph.input.append(onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    return model


@pytest.mark.parametrize("flag", [True, False])
def test_weights_in_branches_go_through_the_file_as_well(monkeypatch: pytest.MonkeyPatch, flag: bool) -> None:
    model = branching()
    inputs = {**feeds(SWAPPER_SHAPES), "flag": np.array(flag)}
    expected = open_session(model).run(None, inputs)[0]
    lean = next(n for n in strip_weights(model, 1).graph.node if n.op_type == "If")
    assert not any(t.raw_data for attribute in lean.attribute for t in attribute.g.initializer)
    monkeypatch.setattr("trt_facefusion.model.sessions.IN_MEMORY_BYTES", 1 << 10)
    np.testing.assert_array_equal(open_session(model).run(None, inputs)[0], expected)


def test_a_digest_in_parts_sees_weights_in_branches() -> None:
    digests = set()
    for value in (0.0, 1.0):
        model = branching()
        weight = next(n for n in model.graph.node if n.op_type == "If").attribute[0].g.initializer[0]
        weight.CopyFrom(onnx.numpy_helper.from_array(np.full((1 << 9, 1 << 9), value, np.float32), weight.name))
        digests |= {hash_model(model, at_once=0).hexdigest(), hash_model(model).hexdigest()}
    assert len(digests) == 4


def test_a_changed_copy_is_opened_and_the_model_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = swapper()
    before = model.SerializeToString()
    tapped = []
    for limit in (64 << 20, 1 << 10):
        monkeypatch.setattr("trt_facefusion.model.sessions.IN_MEMORY_BYTES", limit)
        session = open_session(model, change=lambda graph: graph.output.append(onnx.ValueInfoProto(name="tanh")))
        tapped.append(session.run(["tanh"], feeds(SWAPPER_SHAPES))[0])
    np.testing.assert_array_equal(*tapped)
    assert model.SerializeToString() == before


def test_sessions_are_opened_in_one_place() -> None:
    package = Path(trt_facefusion.__file__).parent
    opening = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\b(InferenceSession|SessionOptions)\(", path.read_text())
    }
    assert opening == {"model/sessions.py"}
