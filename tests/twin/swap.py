"""A swap in miniature for the runtime's tests: two inputs, two outputs, a result that is like no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from twin import runtime as trt

SIDE = 16

Face = np.ndarray[Any, Any]


def net(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, tuple[int, list[int | str]]],
    weights: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, *type_and_shape) for name, type_and_shape in inputs.items()],
        [helper.make_tensor_value_info(name, *type_and_shape) for name, type_and_shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def swap() -> onnx.ModelProto:
    """Two inputs, two outputs, one of them with a rank of its own."""
    image: tuple[int, list[int | str]] = (TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    return net(
        [
            helper.make_node("Mul", ["target", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "source"], ["swapped"]),
            helper.make_node("ReduceMean", ["swapped", "axes"], ["mean"], keepdims=0),
        ],
        {"target": image, "source": (TensorProto.FLOAT, ["batch", 3, 1, 1])},
        {"swapped": image, "mean": (TensorProto.FLOAT, ["batch", 3])},
        {"two": np.float32(2), "axes": np.array([2, 3], np.int64)},
    )


def plan(model: onnx.ModelProto | None = None) -> bytes:
    """Of ``swap`` for batches up to 4, or of a model without dynamic axes."""
    profiles = {name: [[n, 3, side, side] for n in (1, 2, 4)] for name, side in (("target", SIDE), ("source", 1))}
    return trt.make_plan(model or swap(), trt.Runtime.version, {} if model else profiles)


def engine(model: onnx.ModelProto | None = None) -> Any:
    loaded = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan(model))
    assert loaded is not None
    return loaded


def face(value: float, batch: int = 1) -> dict[str, Face]:
    return {
        "target": np.full((batch, 3, SIDE, SIDE), value, np.float32),
        "source": np.full((batch, 3, 1, 1), 0.5, np.float32),
    }


def is_swap_of(value: float, outputs: dict[str, Face], batch: int = 1) -> bool:
    right = np.float32(2 * value + 0.5)
    return (
        outputs["swapped"].shape == (batch, 3, SIDE, SIDE)
        and outputs["mean"].shape == (batch, 3)
        and bool((outputs["swapped"] == right).all())
        and bool(np.allclose(outputs["mean"], right))
    )
