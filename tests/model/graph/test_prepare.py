from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import SWAPPER_SHAPES, Net, feeds, run, swapper, tapped
from onnx import TensorProto, helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export import load_model
from trt_facefusion.model.graph import GraphView, prepare, read_input_specs

PICTURE = {"x": (3, 8, 8)}


def picture_net(net: Net, y: str, **options: int) -> onnx.ModelProto:
    return net.model({"x": ["N", 3, "H", "W"]}, {y: ["N", "C", "H2", "W2"]}, **options)


def assert_same(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], batch: int = 2) -> GraphView:
    """`prepare` changes no output; gives the prepared graph."""
    prepared = prepare(model, shapes)
    onnx.checker.check_model(prepared.model, full_check=True)
    inputs = feeds(shapes, batch)
    wanted, got = run(model, inputs), run(prepared.model, inputs)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
    return GraphView(prepared.model)


def test_a_real_generator_stays_the_same_and_is_folded(shared_models: Path) -> None:
    model = load_model(shared_models / "generator" / "vintagify_cyclegan_A2B.onnx")
    view = assert_same(model, {"input": (3, 64, 64)}, batch=1)
    assert {node.op_type for node in view.nodes.values()} == {
        "Conv", "ConvTranspose", "InstanceNormalization", "Relu", "Add", "Pad", "Tanh",
    }  # fmt: skip
    assert len(view.nodes) == len(view.model.graph.node)
    assert view.shape("output") == ("batch", 3, 64, 64)


def test_a_swapper_stays_the_same() -> None:
    view = assert_same(swapper(), SWAPPER_SHAPES, batch=3)
    assert all(view.shape(name) for node in view.nodes.values() for name in node.output)


def test_the_original_is_not_changed() -> None:
    model = swapper()
    before = model.SerializeToString()
    prepare(model, SWAPPER_SHAPES)
    assert model.SerializeToString() == before


def test_symbolic_sizes_are_fixed_and_the_batch_axis_gets_its_name() -> None:
    net = Net()
    prepared = prepare(picture_net(net, net.conv("x", 3, 5, strides=[2, 2])), PICTURE)
    assert prepared.inputs[0].shape == ("batch", 3, 8, 8)
    assert prepared.outputs[0].shape == ("batch", 5, 4, 4)
    assert prepared.dynamic_batch
    assert prepared.fixed_batch == 1


def test_a_fixed_batch_stays() -> None:
    net = Net()
    prepared = prepare(net.model({"x": [4, 3, 8, 8]}, {net.conv("x", 3, 3): [4, 3, 8, 8]}), PICTURE)
    assert not prepared.dynamic_batch
    assert prepared.fixed_batch == 4


def test_size_computations_are_folded_away() -> None:
    net = Net()
    shape = net.op("Shape", "x", start=2)
    doubled = net.op("Mul", shape, net.const([2, 2], np.int64))
    head = net.op("Shape", "x", start=0, end=2)
    sizes = net.op("Concat", head, doubled, axis=0)
    y = net.op("Resize", net.conv("x", 3, 3), "", "", sizes, mode="linear")
    view = assert_same(picture_net(net, y), PICTURE)
    assert view.shape(y)[1:] == (3, 16, 16)


def test_nodes_get_unique_names() -> None:
    net = Net()
    y = net.op("Relu", net.conv(net.conv(net.conv("x", 3, 3), 3, 3), 3, 3))
    model = picture_net(net, y)
    for node, name in zip(model.graph.node, ["same", "same", "", "Conv_2"], strict=True):
        node.name = name
    view = GraphView(prepare(model, PICTURE).model)
    onnx.checker.check_model(view.model, full_check=True)
    assert len(view.nodes) == 4
    assert "" not in view.nodes
    assert "same" in view.nodes


def test_constants_and_chains_of_them_become_initializers() -> None:
    net = Net()
    net.nodes.append(helper.make_node("Constant", [], ["two"], value_float=2.0))
    net.nodes.append(helper.make_node("Constant", [], ["axes"], value_ints=[0]))
    four = net.op("Unsqueeze", net.op("Mul", "two", "two"), "axes")
    filled = net.op("ConstantOfShape", net.const([1], np.int64), value=helper.make_tensor("v", 1, [1], [3.0]))
    view = assert_same(picture_net(net, net.op("Mul", net.op("Add", "x", four), filled, name="y")), PICTURE)
    assert [node.op_type for node in view.nodes.values()] == ["Add", "Mul"]
    assert view.constant(four).tolist() == [4.0]


def test_what_no_output_needs_is_dropped() -> None:
    net = Net()
    net.conv("x", 3, 64, name="unused")
    view = assert_same(picture_net(net, net.op("Relu", "x")), PICTURE)
    assert list(view.nodes) == ["Relu_1"]
    assert not view.model.graph.initializer


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_old_opsets_are_upgraded(opset: int) -> None:
    net = Net()
    y = net.op("Relu", net.conv("x", 3, 4))
    y = net.op("ReduceMean", y, axes=[2, 3], keepdims=1) if opset < 18 else y
    view = assert_same(picture_net(net, y, opset=opset, ir=7), PICTURE)
    assert next(o.version for o in view.model.opset_import if o.domain == "") >= 20


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalisations_are_expanded(opset: int) -> None:
    net = Net()
    scale, bias = np.array([0.5, 0.5, 2.0, 2.0]), np.array([0.1, 0.1, 0.2, 0.2])
    step = 2 if opset < 21 else 1  # until opset 20 there was one value for each group
    inputs = [net.conv("x", 3, 4, name="conv"), net.const(scale[::step]), net.const(bias[::step])]
    y = net.op("GroupNormalization", *inputs, num_groups=2, epsilon=1e-3, name="norm")
    view = GraphView(prepare(picture_net(net, net.op("Relu", y), opset=opset), PICTURE).model)
    assert view.shape("norm") == ("batch", 4, 8, 8)
    found = run(tapped(view.model, ["conv", "norm"]), feeds(PICTURE))
    groups = found["conv"].reshape(2, 2, -1)
    normed = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-3)
    wanted = normed.reshape(2, 4, 8, 8) * scale[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(found["norm"], wanted, atol=1e-5)


def test_initializers_that_are_listed_as_inputs_are_no_inputs() -> None:
    net = Net()
    model = picture_net(net, net.conv("x", 3, 4), opset=9, ir=3)
    model.graph.input.extend(
        helper.make_tensor_value_info(w.name, TensorProto.FLOAT, list(w.dims)) for w in model.graph.initializer
    )
    assert [spec.name for spec in read_input_specs(model)] == ["x"]
    assert_same(model, PICTURE)


def test_what_onnxs_checker_asks_for_is_mended() -> None:
    net = Net()
    model = picture_net(net, net.conv("x", 3, 3))
    model.graph.name = ""
    for value in ("first", "second"):
        model.metadata_props.add(key="note", value=value)
    assert_same(model, PICTURE)


@pytest.mark.parametrize("opset", [20, 18])
def test_local_functions_are_inlined(opset: int) -> None:
    """Also where they are written for another opset than the model's."""
    net = Net()
    y = net.op("Block", net.conv("x", 3, 3), domain="local")
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["a", "b"], ["c"])]
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 3, 8, 8])],
        net.weights,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "Block", ["a"], ["c"], body, [helper.make_opsetid("", opset)])
    view = assert_same(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10), PICTURE)
    assert [node.op_type for node in view.nodes.values()] == ["Conv", "Relu", "Add"]


@pytest.mark.parametrize(
    ("shapes", "shown"),
    [
        ({"x": (4, 8, 8)}, "[N, 4, 8, 8]"),
        ({"x": (3, 9, 8)}, "[N, 3, 9, 8]"),
        ({"x": (512,)}, "[N, 512]"),
        ({}, "not described"),
    ],
)
def test_a_shape_that_does_not_fit_is_shown_beside_the_models(shapes: dict[str, tuple[int, ...]], shown: str) -> None:
    net = Net()
    model = net.model({"x": ["N", 3, 8, 8]}, {net.conv("x", 3, 3): ["N", 3, 8, 8]})
    with pytest.raises(ModelError) as error:
        prepare(model, shapes)
    assert shown in error.value.message
    assert "x: float32 [N, 3, 8, 8]" in error.value.message
    assert "--input" in error.value.remedy


def test_sizes_that_break_the_network_are_refused() -> None:
    net = Net()
    y = net.op("Add", net.conv("x", 3, 3), net.const(np.zeros((1, 3, 8, 8))))
    with pytest.raises(ModelError, match="do not fit together"):
        prepare(picture_net(net, y), {"x": (3, 16, 16)})


def branch(net: Net) -> str:
    graphs = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, ["N", 3, 8, 8])
        graphs[name] = helper.make_graph([helper.make_node(op, ["x"], [out.name])], name, [], [out])
    return net.op("If", net.op("Greater", net.op("ReduceMean", "x", keepdims=0), net.const(0.0)), **graphs)


def loop(net: Net, count: str = "") -> str:
    """``count`` passes over a Relu; as many as the picture says where none is given."""
    if not count:
        count = net.op("Cast", net.op("ReduceMax", "x", keepdims=0), to=TensorProto.INT64)
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go2"]), helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("v", TensorProto.FLOAT, None)],
        [info("go2", TensorProto.BOOL, []), info("v2", TensorProto.FLOAT, None)],
    )
    return net.op("Loop", count, net.const(True, bool), "x", body=body)


def scan(net: Net) -> str:
    info = helper.make_tensor_value_info
    shape = [3, 8, 8]
    body = helper.make_graph(
        [helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [info("v", TensorProto.FLOAT, shape)],
        [info("v2", TensorProto.FLOAT, shape)],
    )
    return net.op("Scan", "x", body=body, num_scan_inputs=1)


@pytest.mark.parametrize("make", [branch, loop, scan])
def test_control_flow_is_refused_by_name(make: object) -> None:
    net = Net()
    y = make(net)
    with pytest.raises(ModelError, match="branches or loops") as error:
        prepare(net.model({"x": ["N", 3, 8, 8]}, {y: ["N", 3, 8, 8]}), PICTURE)
    assert y in error.value.message


def test_operators_of_other_makers_are_refused_by_name() -> None:
    net = Net()
    y = net.op("FusedConv", "x", net.const(np.ones((3, 3, 1, 1))), domain="com.microsoft", name="odd")
    model = net.model({"x": ["N", 3, 8, 8]}, {net.op("Relu", y): ["N", 3, 8, 8]})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelError, match="odd"):
        prepare(model, PICTURE)
