from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import Net
from onnx import TensorProto, helper, numpy_helper
from test_prepare import PICTURE, assert_same, loop, picture_net

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph import prepare

value_info = helper.make_tensor_value_info


def decided(net: Net, condition: str, **outer: str) -> str:
    """An If whose branches read the outer graph, have constants and a Constant of their own, and nest another If."""
    graphs = {}
    for name, op in (("then_branch", "Add"), ("else_branch", "Mul")):
        inner = {}
        for inside, kind in (("then_branch", "Relu"), ("else_branch", "Neg")):
            out = value_info("z", TensorProto.FLOAT, None)
            inner[inside] = helper.make_graph([helper.make_node(kind, ["y"], ["z"])], inside, [], [out])
        nodes = [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(0.25))),
            helper.make_node(op, ["x", "k"], ["w"]),
            helper.make_node("Add", ["w", "c"], ["y"], "same"),
            helper.make_node("If", [outer.get("inner", condition)], ["r"], "inner", **inner),
        ]
        own = [numpy_helper.from_array(np.float32([0.5]), "k")]
        graphs[name] = helper.make_graph(nodes, name, [], [value_info("r", TensorProto.FLOAT, None)], own)
    return net.op("If", condition, **graphs)


@pytest.mark.parametrize("opset", [11, 13, 20])
@pytest.mark.parametrize("wanted", [3, 4])
def test_a_branch_that_fixed_sizes_decide_is_taken(wanted: int, opset: int) -> None:
    net = Net()
    channels = net.op("Gather", net.op("Shape", "x"), net.const(1, np.int64))
    y = decided(net, net.op("Equal", channels, net.const(wanted, np.int64)))
    view = assert_same(picture_net(net, net.op("Abs", y), opset=opset, ir=8), PICTURE)
    kinds = [node.op_type for node in view.nodes.values()]
    assert kinds == (["Add", "Add", "Relu", "Abs"] if wanted == 3 else ["Mul", "Add", "Neg", "Abs"])


def test_a_branch_may_hand_on_what_it_was_given() -> None:
    net = Net()
    out = value_info("x", TensorProto.FLOAT, None)
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "b", [], [value_info("z", TensorProto.FLOAT, None)]
    )
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"])], "a", [], [value_info("i", TensorProto.FLOAT, None)]
    )
    assert out.name == "x"
    y = net.op("If", net.const(True, bool), then_branch=branch, else_branch=other)
    assert_same(picture_net(net, net.op("Neg", y)), PICTURE)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_loop_of_a_known_count_is_unrolled(count: int) -> None:
    net = Net()
    y = loop(net, net.const(count, np.int64))
    view = assert_same(picture_net(net, net.op("Neg", y)), PICTURE)
    assert [node.op_type for node in view.nodes.values()].count("Relu") == count


@pytest.mark.parametrize("opset", [11, 17])
def test_a_loop_that_collects_its_passes_is_unrolled(opset: int) -> None:
    net = Net()
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["step"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["v", "step"], ["v2"], "add"),
            helper.make_node("Constant", [], ["go2"], value=numpy_helper.from_array(np.array(True))),
            helper.make_node("Mul", ["v2", "x"], ["row"]),
        ],
        "body",
        [
            value_info("i", TensorProto.INT64, []),
            value_info("go", TensorProto.BOOL, []),
            value_info("v", TensorProto.FLOAT, None),
        ],
        [
            value_info("go2", TensorProto.BOOL, []),
            value_info("v2", TensorProto.FLOAT, None),
            value_info("row", TensorProto.FLOAT, None),
        ],
    )
    net.op("Loop", net.const(3, np.int64), "", "x", body=body, name="loop", outputs=2)
    squeezed = (
        net.op("ReduceSum", "loop.1", axes=[0], keepdims=0)
        if opset < 13
        else net.op("ReduceSum", "loop.1", net.const([0], np.int64), keepdims=0)
    )
    y = net.op("Add", "loop", squeezed)
    assert_same(picture_net(net, y, opset=opset, ir=8), PICTURE)


def test_a_loop_whose_condition_is_computed_is_refused_by_name() -> None:
    net = Net()
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "v"], ["v2"]),
            helper.make_node("ReduceMax", ["v2"], ["top"], keepdims=0),
            helper.make_node("Less", ["top", "limit"], ["go2"]),
        ],
        "body",
        [
            value_info("i", TensorProto.INT64, []),
            value_info("go", TensorProto.BOOL, []),
            value_info("v", TensorProto.FLOAT, None),
        ],
        [value_info("go2", TensorProto.BOOL, []), value_info("v2", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(9), "limit")],
    )
    y = net.op("Loop", net.const(3, np.int64), net.const(True, bool), "x", body=body, name="until_large")
    with pytest.raises(ModelError, match="until_large"):
        prepare(picture_net(net, y), PICTURE)


def test_a_scan_is_refused_for_what_it_is() -> None:
    net = Net()
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["s2"]), helper.make_node("Identity", ["s2"], ["row"])],
        "body",
        [value_info("s", TensorProto.FLOAT, None), value_info("e", TensorProto.FLOAT, None)],
        [value_info("s2", TensorProto.FLOAT, None), value_info("row", TensorProto.FLOAT, None)],
    )
    first = net.op("ReduceMean", "x", net.const([2, 3], np.int64))
    y = net.op("Scan", first, "x", body=body, num_scan_inputs=1, scan_input_axes=[0], name="over", outputs=2)
    with pytest.raises(ModelError, match=r"Scan 'over'.*runs a Scan"):
        prepare(picture_net(net, y), PICTURE)


def test_a_loop_that_would_become_too_many_nodes_is_refused_by_name() -> None:
    net = Net()
    y = loop(net, net.const(1 << 40, np.int64))
    with pytest.raises(ModelError, match="passes"):
        prepare(picture_net(net, y), PICTURE)


def half(*, border: bool, opset: int = 20) -> onnx.ModelProto:
    net = Net()
    x = "x" if border else net.op("Cast", "x", to=TensorProto.FLOAT16)
    weight = net.const(net.rng.normal(size=(4, 3, 3, 3)) / 6, np.float16)
    y = net.op("Relu", net.op("Conv", x, weight, net.const(np.ones(4) / 8, np.float16), pads=[1] * 4))
    y = net.op(
        "Mul", y, net.op("ConstantOfShape", net.const([1], np.int64), value=numpy_helper.from_array(np.float16([2])))
    )
    y = net.op("Mul", y, net.op("Cast", net.op("Cast", y, to=TensorProto.FLOAT), to=TensorProto.FLOAT16))
    if not border:
        y = net.op("Cast", y, to=TensorProto.FLOAT, name="y")
    model = picture_net(net, y, opset=opset)
    if border:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_fp16_in_the_file_becomes_fp32_throughout() -> None:
    model = prepare(half(border=False), PICTURE).model
    assert TensorProto.FLOAT16 not in {t.data_type for t in model.graph.initializer}
    assert TensorProto.FLOAT16 not in {v.type.tensor_type.elem_type for v in model.graph.value_info}
    assert [n.op_type for n in model.graph.node] == ["Conv", "Relu", "Mul", "Mul"]


def test_inputs_and_outputs_of_fp16_keep_their_type() -> None:
    prepared = prepare(half(border=True), PICTURE)
    assert [s.dtype for s in (*prepared.inputs, *prepared.outputs)] == ["float16", "float16"]
    assert [n.op_type for n in prepared.model.graph.node] == ["Cast", "Conv", "Relu", "Mul", "Mul", "Cast"]
