"""Instance normalisation written so that a compiler makes one kernel of it, of what follows and of the quantiser.

TensorRT-RTX has a kernel of its own for InstanceNormalization: it wants FP32 in another layout, so a kernel in front
of it transposes and one behind it applies scale, shift and activation. Written as reductions over the flattened map
all of this becomes one kernel, or two where a map is small or large: mean and variance, and what applies them. Both
read the tensor by a cast of their own; one cast for both would be kept in memory as FP32.

A factor and a shift for each channel in front of the normalisation cancel, but for its epsilon, which is divided by the
square of the factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from trt_facefusion.model.graph import GraphView, read_attribute
from trt_facefusion.quantization.lowering.rewriting import GraphEditor, make_op
from trt_facefusion.types import Array


def flatten_norms(view: GraphView, model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, a typed ONNX of ``view``, with its instance normalisations of FP16 maps [N,C,H,W] as reductions."""
    editor = GraphEditor(model)
    for node in model.graph.node:
        if node.op_type == "InstanceNormalization" and len(view.shape(node.output[0]) or ()) == 4:
            _flatten(editor, node)
    return editor.finish() if editor.changed else model


@dataclass(frozen=True)
class _Source:
    """An FP16 tensor and the factors [C] that a normalisation's input is of it, shifts left out."""

    tensor: str
    factors: NDArray[np.float32]


def _flatten(editor: GraphEditor, norm: onnx.NodeProto) -> None:
    gamma, beta = (editor.constant(name) for name in norm.input[1:3])
    cast = editor.producer.get(norm.input[0])
    if gamma is None or beta is None or cast is None or cast.op_type != "Cast":
        return
    source = _find_source(editor, cast.input[0], len(gamma))
    prefix = norm.output[0]
    epsilon = np.float32(read_attribute(norm, "epsilon", 1e-5)) / source.factors**2

    def constant(name: str, values: Array) -> str:
        return editor.add_constant(f"{prefix}__{name}", values)

    def name(tensor: str) -> str:
        return f"{prefix}__{tensor}"

    last, per_channel = constant("axis", np.array([2])), (1, -1, 1)
    editor.replace(
        norm,
        [
            make_op("Cast", [source.tensor], name("counted"), to=TensorProto.FLOAT),
            make_op("Reshape", [name("counted"), constant("flat", np.array([0, 0, -1]))], name("rows")),
            make_op("ReduceMean", [name("rows"), last], name("mean")),
            make_op("Sub", [name("rows"), name("mean")], name("centred")),
            make_op("Mul", [name("centred"), name("centred")], name("squares")),
            make_op("ReduceMean", [name("squares"), last], name("variance")),
            make_op("Add", [name("variance"), constant("epsilon", epsilon.reshape(per_channel))], name("positive")),
            make_op("Sqrt", [name("positive")], name("deviation")),
            make_op("Div", [constant("gamma", gamma.reshape(per_channel)), name("deviation")], name("gain")),
            make_op("Mul", [name("mean"), name("gain")], name("moved")),
            make_op("Sub", [constant("beta", beta.reshape(per_channel)), name("moved")], name("offset")),
            make_op("Unsqueeze", [name("gain"), constant("last", np.array([3]))], name("gains")),
            make_op("Unsqueeze", [name("offset"), name("last")], name("offsets")),
            make_op("Cast", [source.tensor], name("applied"), to=TensorProto.FLOAT),
            make_op("Mul", [name("applied"), name("gains")], name("scaled")),
            make_op("Add", [name("scaled"), name("offsets")], prefix),
        ],
    )


def _find_source(editor: GraphEditor, tensor: str, channels: int) -> _Source:
    """What ``tensor`` is but for a shift and positive factors of channels."""
    factors = np.ones(channels, np.float32)
    while editor.find_only_reader(tensor) is not None:
        node = editor.producer.get(tensor)
        if node is None or node.op_type not in {"Add", "Mul"}:
            break
        values = editor.constant(node.input[1])
        if values is None or values.shape != (1, channels, 1, 1) or (node.op_type == "Mul" and not (values > 0).all()):
            break
        if node.op_type == "Mul":
            factors = factors * values.reshape(-1).astype(np.float32)
        tensor = node.input[0]
    return _Source(tensor, factors)
