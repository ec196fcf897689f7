"""A graph that this tool made and that onnxruntime cannot run is no fault of the user's file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BuildError, ModelError


def shapes_that_do_not_fit() -> onnx.ModelProto:
    """Loads, and fails when it is run."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "C"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    weight = numpy_helper.from_array(np.ones(7, np.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], "block3/add")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def types_that_do_not_fit() -> onnx.ModelProto:
    """Does not load."""
    model = shapes_that_do_not_fit()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(7, np.float16), "w"))
    return model


def test_a_failing_run_of_ours_names_the_node() -> None:
    with (
        OnnxRuntimeRunner(shapes_that_do_not_fit(), ours="the lowered int8 graph") as runner,
        pytest.raises(
            BuildError, match="the lowered int8 graph fails in ONNX Runtime at the node 'block3/add'"
        ) as caught,
    ):
        runner.infer({"x": np.ones((1, 3), np.float32)})
    assert "export" not in caught.value.remedy.lower() and "block3/add" in caught.value.remedy


def test_a_graph_of_ours_that_does_not_load_names_the_node() -> None:
    with pytest.raises(BuildError, match="at the node 'block3/add'"):
        OnnxRuntimeRunner(types_that_do_not_fit(), ours="the lowered fp16 graph")


def test_the_users_own_file_is_still_a_model_error() -> None:
    with (
        OnnxRuntimeRunner(shapes_that_do_not_fit()) as runner,
        pytest.raises(ModelError, match="ONNX Runtime failed inside the model"),
    ):
        runner.infer({"x": np.ones((1, 3), np.float32)})
    with pytest.raises(ModelError, match="cannot load"):
        OnnxRuntimeRunner(types_that_do_not_fit())
