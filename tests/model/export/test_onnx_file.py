from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import SWAPPER_SHAPES, Net, feeds, run, swapper
from onnx import helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export import OnnxSource, load_model
from trt_facefusion.model.graph import prepare


def tiny() -> onnx.ModelProto:
    net = Net()
    net.conv("x", 3, 3, name="y")
    return net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 8, 8]})


def with_external_data(folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save_model(swapper(), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    return path


def relocated(path: Path, location: str) -> Path:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_model(path)
    assert error.value.remedy
    assert str(path) in error.value.message
    return error.value


@pytest.mark.parametrize("name", ["net.onnx", "net.json", "net.txt", "net"])
def test_a_model_is_read_whatever_its_file_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(tiny().SerializeToString())
    assert load_model(tmp_path / name) == tiny()


def test_external_weights_are_read_and_part_of_the_digest(tmp_path: Path) -> None:
    source = OnnxSource(with_external_data(tmp_path))
    inputs = feeds(SWAPPER_SHAPES)
    np.testing.assert_array_equal(run(source.load({}), inputs)["output"], run(swapper(), inputs)["output"])
    before = source.digest()
    weights = bytearray((tmp_path / "net.bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "net.bin").write_bytes(weights)
    assert source.digest() != before


def test_a_file_that_begins_to_name_other_weights_has_another_digest(tmp_path: Path) -> None:
    source = OnnxSource(with_external_data(tmp_path))
    weights = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "b.bin").write_bytes(weights)
    first = source.digest()
    assert source.digest() == first
    relocated(source.path, "b.bin")
    second = source.digest()
    (tmp_path / "b.bin").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert len({first, second, source.digest()}) == 3


def test_a_model_that_was_taken_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(tiny().SerializeToString())
    source = OnnxSource(tmp_path / "net.onnx")
    model = source.model
    assert source.load({}) is model
    assert source.load({}) == model == source.model


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "c.onnx"]
    for path, model in zip(paths, [tiny(), tiny(), swapper()], strict=True):
        path.write_bytes(model.SerializeToString())
    digests = [OnnxSource(path).digest() for path in paths]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("location", ["{outside}/secret.bin", "../secret.bin", "sub/../../secret.bin", ""])
def test_weights_outside_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 20))
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    path = relocated(with_external_data(inside), location.format(outside=tmp_path))
    assert "weights" in refused(path).message
    with pytest.raises(ModelError):
        OnnxSource(path).digest()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = with_external_data(inside)
    (inside / "net.bin").rename(tmp_path / "net.bin")
    (inside / "net.bin").symlink_to(tmp_path / "net.bin")
    assert "outside" in refused(path).message


def hub(folder: Path) -> Path:
    """A model as Hugging Face's cache lays it: links into `blobs`, named by their content."""
    snapshot = folder / "models--me--net" / "snapshots" / "0123abc"
    blobs = folder / "models--me--net" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    with_external_data(snapshot)
    for index, name in enumerate(("net.onnx", "net.bin")):
        (snapshot / name).rename(blobs / f"{index}f00")
        (snapshot / name).symlink_to(Path("../../blobs") / f"{index}f00")
    return snapshot / "net.onnx"


@pytest.mark.parametrize("plain", ["", "net.onnx"])
def test_the_links_of_a_hub_are_followed(tmp_path: Path, plain: str) -> None:
    path = hub(tmp_path)
    if plain:  # some file systems know no links, and hubs copy small files
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    inputs = feeds(SWAPPER_SHAPES)
    np.testing.assert_array_equal(run(load_model(path), inputs)["output"], run(swapper(), inputs)["output"])


def test_a_model_that_is_a_link_finds_the_weights_beside_the_real_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = with_external_data(tmp_path / "real")
    (tmp_path / "link.onnx").symlink_to(path)
    assert load_model(tmp_path / "link.onnx") == load_model(path)


def test_a_link_that_leaves_the_hub_is_refused_as_a_link(tmp_path: Path) -> None:
    path = hub(tmp_path)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(1 << 20))
    (path.parent / "net.bin").unlink()
    (path.parent / "net.bin").symlink_to(secret)
    message = refused(path).message
    assert "a link to" in message
    assert str(secret) in message


def test_a_link_to_nothing_is_said_to_be_one(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    (tmp_path / "net.bin").unlink()
    (tmp_path / "net.bin").symlink_to("elsewhere.bin")
    assert "leads to nothing" in refused(path).message


@pytest.mark.parametrize("who", ["model", "weights"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, who: str) -> None:
    path = with_external_data(tmp_path)
    pipe = path if who == "model" else tmp_path / "net.bin"
    pipe.unlink()
    os.mkfifo(pipe)
    assert "no regular file" in refused(path).message


def test_a_device_is_refused() -> None:
    assert "no regular file" in refused(Path("/dev/zero")).message


def test_weights_that_are_asked_for_many_times_over_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(bytes(1 << 20))
    model = tiny()
    for index in range(300):
        tensor = model.graph.initializer.add(name=f"w{index}", data_type=1, dims=[1 << 18])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="net.bin")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert "asks for" in refused(tmp_path / "net.onnx").message


def test_external_weights_of_nested_attributes_are_confined_too(tmp_path: Path) -> None:
    model = tiny()
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert "outside" in refused(tmp_path / "net.onnx").message


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged_external_weights_are_refused(tmp_path: Path, damage: str) -> None:
    path = with_external_data(tmp_path)
    if damage == "missing":
        (tmp_path / "net.bin").unlink()
    else:
        (tmp_path / "net.bin").write_bytes(b"short")
    assert "weights" in refused(path).message


@pytest.mark.parametrize("keep", [0, 1, 10, 0.5, 0.9, -1])
def test_truncated_files_are_refused(tmp_path: Path, keep: float) -> None:
    content = tiny().SerializeToString()
    cut = int(keep * len(content)) if isinstance(keep, float) else keep
    (tmp_path / "net.onnx").write_bytes(content[:cut])
    refused(tmp_path / "net.onnx")


@pytest.mark.parametrize("content", [b"hello", bytes(1000), b"<html>404</html>" * 50, b"\x89PNG\r\n\x1a\n" * 20])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    refused(tmp_path / "net.onnx")


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path).message
    assert "does not exist" in refused(tmp_path / "none.onnx").message
    with pytest.raises(ModelError):
        OnnxSource(tmp_path / "none.onnx").digest()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_broken_weights_are_named_and_counted(tmp_path: Path, dtype: type) -> None:
    model = tiny()
    weights = np.zeros(5, dtype)
    weights[:2] = np.nan
    model.graph.initializer.append(numpy_helper.from_array(weights, "broken"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    message = refused(tmp_path / "net.onnx").message
    assert "'broken'" in message
    assert "2 values" in message


@pytest.mark.parametrize("value", [-np.inf, np.inf, -3.4028235e38])
def test_masks_are_no_broken_weights(tmp_path: Path, value: float) -> None:
    model = tiny()
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, value], np.float32), "mask"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert load_model(tmp_path / "net.onnx") == model


def test_stale_hints_of_sizes_are_ignored(tmp_path: Path) -> None:
    net = Net()
    net.op("Relu", net.conv("x", 3, 3, name="c"), name="y")
    model = net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 9, 9]})
    model.graph.value_info.append(helper.make_tensor_value_info("c", 1, ["N", 5, 16, 16]))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    prepared = prepare(load_model(tmp_path / "net.onnx"), {"x": (3, 8, 8)})
    assert prepared.outputs[0].shape == ("batch", 3, 8, 8)


def test_broken_weights_inside_constant_nodes_are_found_too(tmp_path: Path) -> None:
    model = tiny()
    tensor = numpy_helper.from_array(np.array([np.nan], np.float32), "c")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert "'c'" in refused(tmp_path / "net.onnx").message


def test_sparse_weights_are_refused_by_name(tmp_path: Path) -> None:
    model = tiny()
    weight = model.graph.initializer[0]
    dense = numpy_helper.to_array(weight).ravel()
    places = numpy_helper.from_array(np.flatnonzero(dense), "places")
    values = numpy_helper.from_array(dense[np.flatnonzero(dense)], weight.name)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(weight.dims)))
    name = weight.name
    del model.graph.initializer[0]
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert f"{name!r} is sparse" in refused(tmp_path / "net.onnx").message


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    model = tiny()
    model.graph.node[0].op_type = "FancyConv"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert "FancyConv" in refused(tmp_path / "net.onnx").message


def test_shapes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    net = Net()
    net.op("Add", net.conv("x", 3, 4), net.conv("x", 3, 3), name="y")
    (tmp_path / "net.onnx").write_bytes(net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 8, 8]}).SerializeToString())
    refused(tmp_path / "net.onnx")
