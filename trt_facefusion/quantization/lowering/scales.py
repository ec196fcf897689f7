"""A lowered model whose activation scales are inputs: one session then tries any thresholds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trt_facefusion.quantization.correction.channel_affine import Affines, name_equalised
from trt_facefusion.quantization.correction.grid import compute_activation_scale

_SUFFIX = "__scale"


def add_scale_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """``model``, which `lower` made with base FP32, with the scale of every QuantizeLinear as an input [] float32.

    It is changed itself: a copy would hold all weights once more. Also the activation that each of these inputs is the
    scale of.
    """
    graph = model.graph
    scales = dict.fromkeys(node.input[1] for node in graph.node if node.op_type == "QuantizeLinear")
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in scales:
            del graph.initializer[index]
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in scales)
    return model, {name: name.removesuffix(_SUFFIX) for name in scales}


def make_scale_feeds(
    inputs: Mapping[str, str], amax: Mapping[str, float], affines: Affines
) -> dict[str, NDArray[np.float32]]:
    """Values for the inputs that `add_scale_inputs` gave: the scales that `lower` would have written."""
    names = {name: name_equalised(tensor) if tensor in affines else tensor for name, tensor in inputs.items()}
    return {name: compute_activation_scale(amax[range_name], TensorProto.FLOAT) for name, range_name in names.items()}
