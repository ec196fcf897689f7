from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import Net
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export import load_model


def tiny() -> onnx.ModelProto:
    net = Net()
    net.conv("x", 3, 3, name="y")
    return net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 8, 8]})


def refused(model: onnx.ModelProto | bytes, folder: Path) -> str:
    path = folder / "net.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(ModelError) as error:
        load_model(path)
    return error.value.message


def short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def long(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data += bytes(1)


def few_values(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0])


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -3


def huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 62


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


@pytest.mark.parametrize("damage", [short, long, few_values, negative, huge, unknown_type])
def test_constants_that_do_not_fit_their_shape_are_named(
    damage: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    model = tiny()
    damage(model)
    assert "'const_0'" in refused(model, tmp_path)


def test_constants_inside_nodes_are_checked_too(tmp_path: Path) -> None:
    model = tiny()
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "inside")
    tensor.raw_data = b"abc"
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    assert "'inside'" in refused(model, tmp_path)


def test_a_name_that_is_no_text_is_shown(tmp_path: Path) -> None:
    model = tiny()
    model.graph.node[0].name = "QQQQQQ"
    assert "no text" in refused(model.SerializeToString().replace(b"QQQQQQ", b"Q\xff\xfeQQQ"), tmp_path)


def test_an_input_of_an_unknown_type_is_named(tmp_path: Path) -> None:
    model = tiny()
    model.graph.input[0].type.tensor_type.elem_type = 77
    assert "'x' has the type number 77" in refused(model, tmp_path)


def test_an_input_that_is_a_list_is_named(tmp_path: Path) -> None:
    model = tiny()
    model.graph.input.append(helper.make_tensor_sequence_value_info("frames", TensorProto.FLOAT, None))
    assert "'frames' is no tensor" in refused(model, tmp_path)


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    model = tiny()
    model.graph.output.append(model.graph.output[0])
    assert "two outputs called 'y'" in refused(model, tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "said"), [("b", "a", "'first', Relu 'second' wait"), ("x", "x", "single static assignment")]
)
def test_cycles_and_results_made_twice_are_refused(first: str, second: str, said: str, tmp_path: Path) -> None:
    model = tiny()
    model.graph.node.append(helper.make_node("Relu", [first], ["a"], "first"))
    model.graph.node.append(helper.make_node("Relu", [second], ["b" if first == "b" else "a"], "second"))
    assert said in refused(model, tmp_path)


def test_a_million_nodes_are_refused_at_once(tmp_path: Path) -> None:
    one = helper.make_node("Relu", ["x"], ["x"]).SerializeToString()
    field = b"\x0a" + bytes([len(one)]) + one
    content = tiny().graph.SerializeToString() + field * 200_000
    model = tiny()
    model.ClearField("graph")
    length = len(content)
    size = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127 | 128, length >> 21])
    assert "nodes" in refused(model.SerializeToString() + b"\x3a" + size + content, tmp_path)
