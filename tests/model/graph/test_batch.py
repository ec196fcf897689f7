"""Nodes that mix the samples of a batch: named before any work, and none that keeps them apart."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.batch import require_samples_apart
from trt_facefusion.types import Array

SHAPES = {"x": (4, 8, 8)}


def model(
    *nodes: onnx.NodeProto, opset: int = 20, batch: int | str = "N", constants: dict[str, Array] | None = None
) -> onnx.ModelProto:
    graph_input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, "h", "w"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", [graph_input], [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def one(op: str, *more_inputs: str, opset: int = 20, constants: dict[str, Array] | None = None, **attributes: object):
    return model(
        helper.make_node(op, ["x", *more_inputs], ["y"], "culprit", **attributes), opset=opset, constants=constants
    )


def norm(batch: int | str = "N", opset: int = 20, outputs: int = 1, **attributes: object) -> onnx.ModelProto:
    names = ["scale", "bias", "mean", "var"]
    node = helper.make_node("BatchNormalization", ["x", *names], ["y", "rm", "rv"][:outputs], "bn", **attributes)
    return model(node, batch=batch, opset=opset, constants={name: np.ones(4, np.float32) for name in names})


AXES = {"axes": np.array([0, 2, 3])}

MIXING = {
    "batch norm in training": norm(outputs=3, training_mode=1),
    "batch norm in training of old": norm(outputs=3, opset=9),
    "batch norm in a fixed batch": norm(batch=4, outputs=3, training_mode=1),
    "batch norm that keeps a state": norm(batch=1, outputs=3, training_mode=1),
    "mean over the batch": one("ReduceMean", "axes", constants=AXES),
    "mean over all axes": one("ReduceMean"),
    "mean over an axis from the end": one("ReduceMean", opset=11, axes=[-4]),
    "softmax": one("Softmax", axis=0),
    "argmax with its default axis": one("ArgMax"),
    "sum of those before": one("CumSum", "axis", constants={"axis": np.array(0)}),
    "mean and variance with default axes": one("MeanVarianceNormalization", opset=13),
    "the largest": model(
        helper.make_node("TopK", ["x", "k"], ["y", "i"], "culprit", axis=0), constants={"k": np.array([1])}
    ),
    "layer norm of everything": one("LayerNormalization", "s", constants={"s": np.float32(1)}, axis=0),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_node_that_mixes_samples_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=r"(culprit|bn) \(\w+\) \w+ over the batch"):
        require_samples_apart(MIXING[name], SHAPES)


def test_a_mixing_node_is_found_behind_others() -> None:
    graph = model(
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Softmax", ["r"], ["y"], "far", axis=-4),
    )
    with pytest.raises(ModelError, match="far"):
        require_samples_apart(graph, SHAPES)


def shape_arithmetic() -> onnx.ModelProto:
    """The number of pixels, as exporters compute it: a reduction over axis 0 of a shape."""
    return model(
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("ReduceProd", ["s", "first"], ["count"], "pixels", keepdims=0),
        helper.make_node("Cast", ["count"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["x", "f"], ["y"], "div"),
        constants={"first": np.array([0])},
    )


APART = {
    "batch norm at rest": norm(),
    "a fixed batch of one": model(helper.make_node("ReduceMean", ["x"], ["y"], "all"), batch=1),
    "instance mean": one("ReduceMean", "axes", constants={"axes": np.array([2, 3])}),
    "nothing to reduce": one("ReduceMean", noop_with_empty_axes=1),
    "softmax over channels": one("Softmax", axis=1),
    "layer norm": one("LayerNormalization", "s", constants={"s": np.ones(8, np.float32)}),
    "shape arithmetic": shape_arithmetic(),
    "a constant's own mean": model(
        helper.make_node("ReduceMean", ["w"], ["m"], "weights"),
        helper.make_node("Mul", ["x", "m"], ["y"], "mul"),
        constants={"w": np.ones((4, 4), np.float32)},
    ),
}


@pytest.mark.parametrize("name", APART)
def test_what_keeps_samples_apart_is_no_fault(name: str) -> None:
    require_samples_apart(APART[name], SHAPES)
