"""Tensors that hold a mask's minus infinity (or the lowest float): added before a softmax, so that what it hides is 0.

Such values are meant. They say nothing about the range of what is not hidden, and FP16 cannot tell the lowest float
from infinity: a row that is hidden whole would become NaN.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_HUGE = 1e30
_KINDS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_PASSES_ON = frozenset(
    {
        "Add", "Sub", "Mul", "Where", "Sum", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity",
        "Expand", "Tile", "Slice", "Split", "Gather", "Concat", "Cast", "Trilu", "Pad", "ScatterND", "ScatterElements",
    }
)  # fmt: skip


def find_masked_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of the constants and activations that hold such values."""
    read = {name for node in graph.node if node.op_type in _PASSES_ON for name in node.input}  # weights are none
    floats = [tensor for tensor in graph.initializer if tensor.name in read and tensor.data_type in _KINDS]
    found = {tensor.name for tensor in floats if _is_huge(tensor)}
    for node in graph.node:
        fills = node.op_type == "ConstantOfShape" and any(a.HasField("t") and _is_huge(a.t) for a in node.attribute)
        if fills or (node.op_type in _PASSES_ON and not found.isdisjoint(node.input)):
            found.update(name for name in node.output if name)
    return found


def _is_huge(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    if values.dtype.kind != "f" or not values.size:
        return False
    limit = _HUGE if values.dtype != np.float16 else float(np.finfo(np.float16).max)
    return bool(max(values.max(), -values.min()) >= limit)
