"""Operators with constants that take scales of channels in: additions, products, weights, normalisations.

A ``tie_`` function puts the channels of a node's result into groups, and is False where the node, as it is, cannot be
passed. A ``scale_`` function then scales the node's constants, so that it gives scaled channels where it reads scaled
ones.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from trt_facefusion.model.graph import GraphView, read_attribute
from trt_facefusion.quantization.folding.constants import ConstantScaler, Exponents, can_scale
from trt_facefusion.quantization.folding.ties import ScaleTies, describe_node


def tie_alike(ties: ScaleTies, node: onnx.NodeProto, first: int = 0) -> bool:
    """All operands from ``first`` on, and the result, are scaled alike; constants are scaled with them."""
    view, result = ties.view, node.output[0]
    operands = list(dict.fromkeys(name for name in node.input[first:] if not view.is_constant(name)))
    constants = [name for name in node.input[first:] if view.is_constant(name)]
    if not operands or not ties.share_axis([*operands, result]):
        return False
    if not all(can_scale(view, name, result) for name in constants):
        return False
    groups = ties.groups(operands[0])
    for name in operands[1:]:
        ties.join(groups, ties.groups(name))
    ties.share(result, groups)
    return True


def scale_alike(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    """Constant operands are scaled like the result."""
    powers = -scaler.exponents(node.output[0])
    for index, name in enumerate(node.input):
        if name and scaler.view.is_float(name) and scaler.view.is_constant(name):
            scaler.scale_operand(node, index, powers, node.output[0])


def tie_where(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Both branches are scaled like the result."""
    return tie_alike(ties, node, first=1)


def tie_product(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """A constant factor takes in anything; of two activations one is scaled like the result (see `tie_products`)."""
    view, result = ties.view, node.output[0]
    constants = [name for name in node.input if view.is_constant(name)]
    operands = [name for name in node.input if not view.is_constant(name)]
    divides = node.op_type == "Div"
    if constants:
        usable = can_scale(view, constants[0], result) and not (divides and view.is_constant(node.input[0]))
        if not usable or not ties.share_axis([operands[0], result]):
            return False
        ties.open(result)
        return True
    if operands[0] == operands[1] or not ties.count_channels(result):
        return False
    ties.open(result)
    ties.deferred.append(node)
    return True


def scale_product(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    """The constant factor takes in what result and other factor differ by."""
    for index, name in enumerate(node.input):
        if scaler.view.is_constant(name):
            other, result = node.input[1 - index], node.output[0]
            powers = scaler.exponents(other) - scaler.exponents(result)
            scaler.scale_operand(node, index, powers if node.op_type == "Mul" else -powers, result)


def tie_products(ties: ScaleTies) -> None:
    """Decide on products of two activations, last of all: one factor is scaled like the result, the other not at all.

    The larger map comes first: what makes it has weights that take any scale in, and what a style computes stays.
    """
    for node in ties.deferred:
        result = node.output[0]
        factors = node.input[:1] if node.op_type == "Div" else sorted(node.input, key=_count_pixels(ties.view))
        for name in factors:
            if ties.share_axis([name, result]) and not ties.is_fixed(ties.groups(name)).all():
                ties.join(ties.groups(name), ties.groups(result))
                others = [other for other in node.input if other != name]
                ties.fix(others, f"it is the other factor of {describe_node(node)}")
                break
        else:
            ties.fix([*node.input, result], f"neither factor of {describe_node(node)} can be scaled")


def _count_pixels(view: GraphView) -> Callable[[str], int]:
    return lambda name: -view.per_sample(name)


def tie_weights(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Constant weights take in the scale of every input and output channel, the bias that of the output."""
    view = ties.view
    has_weights = view.weight(node) is not None and not view.is_constant(node.input[0])
    if not has_weights or view.computes_bias(node):
        return False
    if not (ties.count_channels(node.input[0]) and ties.count_channels(node.output[0])):
        return False
    if node.op_type in {"Gemm", "MatMul"} and not _is_plain_matrix(view, node):
        return False
    ties.open(node.output[0])
    return True


def _is_plain_matrix(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether rows are samples: [N,K] @ [K,O], with a bias for each output."""
    bias = view.bias(node)
    flat = len(view.shape(node.input[0]) or ()) == 2 and view.constant(node.input[1]).ndim == 2
    return flat and not read_attribute(node, "transA", 0) and (bias is None or can_scale(view, bias, node.output[0]))


def scale_weights(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    """Weights by the scales of both sides, the bias by that of the output."""
    given, read = scaler.exponents(node.output[0]), scaler.exponents(node.input[0])
    shape = scaler.view.shape(node.input[1]) or ()
    scaler.scale(node, 1, _arrange_powers(node, read, -given, len(shape)))
    if len(node.input) > 2 and node.input[2]:
        if node.op_type == "Gemm":
            scaler.scale_operand(node, 2, -given, node.output[0])
        else:
            scaler.scale(node, 2, -given)


def _arrange_powers(node: onnx.NodeProto, read: Exponents, given: Exponents, rank: int) -> Exponents:
    """The powers of all weights from those of input and of output channels, in the layout of the weights."""
    if node.op_type == "Gemm" and read_attribute(node, "transB", 0):
        return given[:, None] + read[None, :]
    if node.op_type in {"Gemm", "MatMul"}:
        return read[:, None] + given[None, :]
    groups = read_attribute(node, "group", 1)
    assert isinstance(groups, int)
    inputs, outputs = read.reshape(groups, -1), given.reshape(groups, -1)
    if node.op_type == "Conv":
        powers = (outputs[:, :, None] + inputs[:, None, :]).reshape(len(given), -1)
    else:
        powers = (inputs[:, :, None] + outputs[:, None, :]).reshape(len(read), -1)
    return powers.reshape(*powers.shape, *(1,) * (rank - 2))


def tie_normalisation(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Its own scale and bias bring channels to any size; its statistics are those of what it reads."""
    if not all(ties.view.is_constant(name) for name in node.input[1:]):
        return False
    if not ties.count_channels(node.output[0]):
        return False
    ties.fix(node.input[:1], f"{describe_node(node)} takes its statistics")
    ties.open(node.output[0])
    return True


def scale_normalisation(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    """Scale and bias by the scale of the result."""
    given = scaler.exponents(node.output[0])
    scaler.scale(node, 1, -given)
    scaler.scale(node, 2, -given)


def tie_batch_norm(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Its statistics are constants, so that it takes any scale in."""
    constant = all(ties.view.is_constant(name) for name in node.input[1:])
    if not constant or read_attribute(node, "training_mode", 0) or not ties.count_channels(node.output[0]):
        return False
    ties.open(node.output[0])
    return True


def scale_batch_norm(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    """Its scale by those of both sides, its bias and its mean by one each."""
    given, read = scaler.exponents(node.output[0]), scaler.exponents(node.input[0])
    for index, powers in ((1, read - given), (2, -given), (3, -read)):
        scaler.scale(node, index, powers)
