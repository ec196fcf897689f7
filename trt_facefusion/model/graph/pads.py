"""Pad with its amounts for all axes.

Since opset 18 a Pad may say them for some axes only. ONNX Runtime 1.31 moves transposes through such a node without
regard to its axes when it brings integer convolutions to channels last, and then fails.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from trt_facefusion.model.graph.view import GraphView

_AXES = 3


def write_all_pads(model: onnx.ModelProto) -> bool:
    """Give every Pad of ``model`` that says constant amounts for some axes those of all; whether there was any."""
    view, changed = GraphView(model), False
    for node in model.graph.node:
        shape = view.shape(node.input[0]) if node.op_type == "Pad" else None
        says_axes = len(node.input) > _AXES and all(view.is_constant(node.input[index]) for index in (1, _AXES))
        if shape is None or not says_axes:
            continue
        axes = view.constant(node.input[_AXES]).reshape(-1) % len(shape)
        amounts = np.zeros((2, len(shape)), np.int64)
        amounts[:, axes] = view.constant(node.input[1]).reshape(2, -1)
        name = f"{node.name}/all_pads"
        model.graph.initializer.append(numpy_helper.from_array(amounts.reshape(-1), name))
        node.input[1] = name
        del node.input[_AXES:]
        if not node.input[-1]:
            del node.input[-1]
        changed = True
    return changed
