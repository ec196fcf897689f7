"""Generators that change nothing, or invert colours: what comes of a face is known to the pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

SIZE = 64
IMAGE = f"image=image:{SIZE}:0:1:template=arcface_128"


def save_pixelwise(path: Path, op: str = "Identity", outputs: int = 1) -> Path:
    """A network whose picture is its input, or 1 minus it (``op`` Sub); with two outputs also a mask of ones."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    one = onnx.numpy_helper.from_array(np.array(1, np.float32), "one")
    nodes = [helper.make_node(op, ["image"] if op == "Identity" else ["one", "image"], ["picture"])]
    gives = [picture]
    if outputs == 2:
        nodes.append(helper.make_node("ReduceMax", ["image"], ["mask"], axes=[1], keepdims=1))
        gives.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1, SIZE, SIZE]))
    graph = helper.make_graph(nodes, "pixelwise", [image], gives, [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path
