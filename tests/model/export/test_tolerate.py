"""What onnxruntime runs is read, though onnx's checker minds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import Net, feeds, run
from onnx import helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export import load_model
from trt_facefusion.model.graph import prepare

PICTURE = {"x": (3, 8, 8)}


def chain(opset: int = 11, ir: int = 6) -> onnx.ModelProto:
    net = Net()
    y = net.op("Relu", net.conv(net.op("Neg", net.conv("x", 3, 3)), 3, 3))
    return net.model({"x": ["N", 3, 8, 8]}, {y: ["N", 3, 8, 8]}, opset=opset, ir=ir)


def unsorted(model: onnx.ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])


def no_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 0


def no_graph_name(model: onnx.ModelProto) -> None:
    model.graph.ClearField("name")


def no_output_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].ClearField("type")


def no_output_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def metadata_twice(model: onnx.ModelProto) -> None:
    for text in ("a", "b"):
        model.metadata_props.add(key="author", value=text)


def other_domains(model: onnx.ModelProto) -> None:
    model.opset_import.extend([helper.make_opsetid("ai.onnx.ml", 2), helper.make_opsetid("com.microsoft", 1)])


def input_as_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


def constant_as_output(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[1]
    model.graph.output.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


@pytest.mark.parametrize(
    "odd",
    [
        unsorted, no_ir_version, no_graph_name, no_output_type, no_output_shape, metadata_twice, other_domains,
        input_as_output, constant_as_output,
    ],
)  # fmt: skip
def test_what_onnxruntime_does_not_mind_is_read(odd: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = chain()
    odd(model)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    inputs = feeds(PICTURE)
    expected = run(model, inputs)
    outputs = run(prepare(load_model(tmp_path / "net.onnx"), PICTURE).model, inputs)
    assert expected.keys() == outputs.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, atol=1e-6)


def test_constants_that_a_file_of_the_oldest_kind_does_not_list_as_inputs_are_read(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(chain(opset=7, ir=3).SerializeToString())
    assert len(prepare(load_model(tmp_path / "net.onnx"), PICTURE).model.graph.node) == 4


def test_nodes_that_wait_for_each_other_are_named(tmp_path: Path) -> None:
    model = chain()
    model.graph.node[0].input[0] = model.graph.node[2].output[0]
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"Conv 'Conv_0', Neg 'Neg_1'.*wait for each other"):
        load_model(tmp_path / "net.onnx")


def test_fifty_thousand_nodes_in_the_wrong_order_are_sorted_in_no_time(tmp_path: Path) -> None:
    model = chain()
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(20_000)]
    model.graph.node.extend([helper.make_node("Neg", ["x"], ["t0"]), *nodes][::-1])
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert load_model(tmp_path / "net.onnx").graph.node[-1].output[0] == "t20000"


def test_a_group_normalisation_of_a_withdrawn_definition_is_read(tmp_path: Path) -> None:
    net = Net()
    y = net.op("GroupNormalization", net.conv("x", 3, 4), net.const([1.0, 2.0]), net.const([0.5, 0.0]), num_groups=2)
    model = net.model({"x": ["N", 3, 8, 8]}, {net.conv(y, 4, 3): ["N", 3, 8, 8]}, opset=18, ir=8)
    onnx.save(model, tmp_path / "m.onnx")
    prepared = prepare(load_model(tmp_path / "m.onnx"), PICTURE).model
    inputs = feeds(PICTURE)
    for output, expected in zip(run(prepared, inputs).values(), run(model, inputs).values(), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-4)
