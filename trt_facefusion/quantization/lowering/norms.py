"""Instance normalisation written so that a compiler makes one kernel of it, of what follows and of the quantiser.

TensorRT-RTX has a kernel of its own for InstanceNormalization: it wants FP32 in another layout, so a kernel in front
of it transposes and one behind it applies scale, shift and activation. Written as reductions over the flattened map
all of this becomes one kernel, or two where a map is small or large: mean and variance, and what applies them. Both
read the tensor by a cast of their own; one cast for both would be kept in memory as FP32. A normalisation that the
network itself writes in primitive operators, reducing over two axes, gains the same.

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

_FLOAT = NDArray[np.float32]


def flatten_norms(view: GraphView, model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, a typed ONNX of ``view``, with its instance normalisations of FP16 maps [N,C,H,W] as reductions."""
    editor = GraphEditor(model)
    for node in model.graph.node:
        shape = view.shape(node.output[0]) or ()
        if len(shape) != 4 or not isinstance(shape[1], int):
            continue
        norm = _read_operator(editor, node) or _read_primitives(editor, node, shape[1])
        if norm is not None:
            _flatten(editor, node, norm)
    return editor.finish() if editor.changed else model


@dataclass(frozen=True)
class _Norm:
    """An instance normalisation of ``tensor``, FP32: ``epsilon`` [1] or [C], ``gamma`` and ``beta`` [C]."""

    tensor: str
    epsilon: _FLOAT
    gamma: _FLOAT
    beta: _FLOAT


def _read_operator(editor: GraphEditor, node: onnx.NodeProto) -> _Norm | None:
    if node.op_type != "InstanceNormalization":
        return None
    gamma, beta = (editor.constant(name) for name in node.input[1:3])
    if gamma is None or beta is None:
        return None
    epsilon = np.array([read_attribute(node, "epsilon", 1e-5)], np.float32)
    return _Norm(node.input[0], epsilon, gamma.astype(np.float32), beta.astype(np.float32))


def _read_primitives(editor: GraphEditor, node: onnx.NodeProto, channels: int) -> _Norm | None:
    """``(x - mean) / sqrt(mean((x - mean)**2) + epsilon)``, or the same times the reciprocal, ending at ``node``."""
    if node.op_type not in {"Div", "Mul"}:
        return None
    centred, deviation = (editor.producer.get(name) for name in node.input[:2])
    if node.op_type == "Mul" and deviation is not None and deviation.op_type == "Reciprocal":
        deviation = editor.producer.get(deviation.input[0])
    elif node.op_type == "Mul":
        return None
    positive = _read_input(editor, deviation, "Sqrt")
    if positive is None or positive.op_type != "Add" or centred is None or centred.op_type != "Sub":
        return None
    epsilon, source = editor.constant(positive.input[1]), centred.input[0]
    squares = _read_reduced(editor, editor.producer.get(positive.input[0]))
    mean = _read_reduced(editor, editor.producer.get(centred.input[1]))
    if epsilon is None or epsilon.size != 1 or mean != source or squares is None:
        return None
    if not _is_square(editor, editor.producer.get(squares), centred):
        return None
    return _Norm(
        source,
        epsilon.reshape(1).astype(np.float32),
        np.ones(channels, np.float32),
        np.zeros(channels, np.float32),
    )


def _read_input(editor: GraphEditor, node: onnx.NodeProto | None, op_type: str) -> onnx.NodeProto | None:
    """What makes the first input of ``node``, where that is a ``op_type``."""
    return editor.producer.get(node.input[0]) if node is not None and node.op_type == op_type else None


def _read_reduced(editor: GraphEditor, node: onnx.NodeProto | None) -> str | None:
    """What ``node`` takes the mean of over height and width; None where it does something else."""
    if node is None or node.op_type != "ReduceMean" or not read_attribute(node, "keepdims", 1):
        return None
    axes = editor.constant(node.input[1]) if len(node.input) > 1 else None
    return node.input[0] if axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3] else None


def _is_square(editor: GraphEditor, node: onnx.NodeProto | None, centred: onnx.NodeProto) -> bool:
    if node is None or node.op_type not in {"Mul", "Pow"}:
        return False
    exponent = editor.constant(node.input[1])
    if node.op_type == "Pow" and (exponent is None or exponent.size != 1 or float(exponent.reshape(())) != 2):
        return False
    factors = node.input if node.op_type == "Mul" else node.input[:1]
    return all(_computes_same(editor.producer.get(name), centred) for name in factors)


def _computes_same(node: onnx.NodeProto | None, other: onnx.NodeProto) -> bool:
    return node is not None and node.op_type == other.op_type and list(node.input) == list(other.input)


def _flatten(editor: GraphEditor, node: onnx.NodeProto, norm: _Norm) -> None:
    """Replace ``node``, the last one of ``norm``."""
    cast = editor.producer.get(norm.tensor)
    if cast is None or cast.op_type != "Cast":
        return
    source, factors = _skip_channel_factors(editor, cast.input[0], len(norm.gamma))
    prefix = node.output[0]

    def constant(name: str, values: Array) -> str:
        return editor.add_constant(f"{prefix}__{name}", values)

    def name(tensor: str) -> str:
        return f"{prefix}__{tensor}"

    last, channels = constant("axis", np.array([2])), (1, -1, 1)
    epsilon = constant("epsilon", (norm.epsilon / factors**2).reshape(channels))
    statistics = [
        make_op("Cast", [source], name("counted"), to=TensorProto.FLOAT),
        make_op("Reshape", [name("counted"), constant("flat", np.array([0, 0, -1]))], name("rows")),
        make_op("ReduceMean", [name("rows"), last], name("mean")),
        make_op("Sub", [name("rows"), name("mean")], name("centred")),
        make_op("Mul", [name("centred"), name("centred")], name("squares")),
        make_op("ReduceMean", [name("squares"), last], name("variance")),
        make_op("Add", [name("variance"), epsilon], name("positive")),
        make_op("Sqrt", [name("positive")], name("deviation")),
    ]
    applied = [
        make_op("Div", [constant("gamma", norm.gamma.reshape(channels)), name("deviation")], name("gain")),
        make_op("Mul", [name("mean"), name("gain")], name("moved")),
        make_op("Sub", [constant("beta", norm.beta.reshape(channels)), name("moved")], name("offset")),
        make_op("Unsqueeze", [name("gain"), constant("last", np.array([3]))], name("gains")),
        make_op("Unsqueeze", [name("offset"), name("last")], name("offsets")),
        make_op("Cast", [source], name("applied"), to=TensorProto.FLOAT),
        make_op("Mul", [name("applied"), name("gains")], name("scaled")),
        make_op("Add", [name("scaled"), name("offsets")], prefix),
    ]
    editor.replace(node, [*statistics, *applied])


def _skip_channel_factors(editor: GraphEditor, tensor: str, channels: int) -> tuple[str, _FLOAT]:
    """What ``tensor`` is but for a shift and positive factors of channels, and these factors [C]."""
    factors = np.ones(channels, np.float32)
    while True:
        node = editor.producer.get(tensor)
        if node is None or node.op_type not in {"Add", "Mul"} or editor.find_only_reader(tensor) is None:
            return tensor, factors
        values = editor.constant(node.input[1])
        if values is None or values.shape != (1, channels, 1, 1) or (node.op_type == "Mul" and not (values > 0).all()):
            return tensor, factors
        if node.op_type == "Mul":
            factors = factors * values.reshape(-1).astype(np.float32)
        tensor = node.input[0]
