"""What scales of channels may pass: for every operator, how it ties channels, and which of its constants take them in.

An operator is passed in one of four ways:

* what it gives is scaled like what it takes: a rectifier, a resize, pooling, padding with zeros or with what is there;
* all operands and the result are scaled alike: an addition, a maximum; a concatenation channel by channel;
* a constant between takes in any difference: the weights of a convolution, a constant factor;
* its result is scaled by constants of its own, and what it reads has to be as it is: a normalisation.

Everything else sees the scale, so it fixes the channels that it reads and gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from trt_facefusion.model.graph import GraphView, read_attribute
from trt_facefusion.quantization.folding.constants import ConstantScaler, Exponents, can_scale
from trt_facefusion.quantization.folding.ties import ScaleTies

Tie = Callable[[ScaleTies, onnx.NodeProto], bool]
"""Puts the channels of a node's result into groups. False where the node, as it is, cannot be passed."""
Scale = Callable[[ConstantScaler, onnx.NodeProto], None]
"""Scales a node's constants, so that it gives scaled channels where it reads scaled ones."""


@dataclass(frozen=True)
class Passing:
    """How an operator is passed by scales; without ``scale`` it has no constant that changes."""

    tie: Tie
    scale: Scale | None = None


def _share(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """The first output is scaled like the first input, channel by channel."""
    source, result = node.input[0], node.output[0]
    if ties.view.is_constant(source) or ties.count_channels(source) != ties.count_channels(result):
        return False
    ties.share(result, ties.groups(source))
    return True


def _share_same_rank(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    return ties.share_axis([node.input[0], node.output[0]]) and _share(ties, node)


def _tie_resize(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    crops = read_attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    return not (crops and read_attribute(node, "extrapolation_value", 0.0)) and _share_same_rank(ties, node)


def _tie_pad(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Zero padding, or padding with what is there, of other axes than the channels'."""
    view = ties.view
    pads = _read_integers(view, node, 1)
    axes = _read_integers(view, node, 3) or tuple(range(len(pads or ()) // 2))
    if pads is None or (_has_input(node, 3) and not view.is_constant(node.input[3])):
        return False
    rank = len(view.shape(node.input[0]) or ())
    if any(pads[i] or pads[i + len(axes)] for i, axis in enumerate(axes) if axis % max(rank, 1) <= 1):
        return False
    if _has_input(node, 2) and read_attribute(node, "mode", b"constant") == b"constant":
        value = node.input[2]
        if not view.is_constant(value) or view.constant(value).any():
            return False
    return _share_same_rank(ties, node)


def _tie_prelu(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    if not ties.view.is_constant(node.input[1]):
        ties.fix(node.input[1:], f"it is the slope of {_describe(node)}")
    return _share_same_rank(ties, node)


def _tie_clip(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """A Clip that only cuts off at zero."""
    view = ties.view
    if _has_input(node, 2) or not (_has_input(node, 1) and view.is_constant(node.input[1])):
        return False
    return not view.constant(node.input[1]).any() and _share_same_rank(ties, node)


def _tie_reduction(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """A reduction over axes behind the channels' that gives twice as much for twice as much."""
    axes = _read_integers(ties.view, node, 1)
    rank = len(ties.view.shape(node.input[0]) or ())
    return axes is not None and bool(axes) and all(axis % max(rank, 1) > 1 for axis in axes) and _share(ties, node)


def _tie_reshape(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Any view of the same values that keeps batch and channels as the first two axes."""
    before, behind = (ties.view.shape(name) or () for name in (node.input[0], node.output[0]))
    sizes = [size for shape in (before[1:], behind[1:]) for size in shape]
    if len(before) < 2 or len(behind) < 2 or not all(isinstance(size, int) for size in sizes):
        return False
    pixels = [int(np.prod(np.array(shape[2:], np.int64))) for shape in (before, behind)]
    return pixels[0] == pixels[1] and _share(ties, node)


def _tie_transpose(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    order = read_attribute(node, "perm")
    return isinstance(order, list) and list(order[:2]) == [0, 1] and _share(ties, node)


def _tie_concat(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    view, axis = ties.view, _read_axis(ties.view, node, node.output[0])
    if any(view.is_constant(name) for name in node.input) or axis < 1:
        return False
    if axis > 1:
        return _tie_alike(ties, node)
    groups = [ties.groups(name) for name in node.input]
    if 0 in map(len, groups):
        return False
    ties.share(node.output[0], np.concatenate(groups))
    return True


def _tie_split(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    source, axis = node.input[0], _read_axis(ties.view, node, node.input[0])
    groups = ties.groups(source)
    sizes = [ties.count_channels(name) for name in node.output]
    if ties.view.is_constant(source) or axis < 1 or not len(groups) or 0 in sizes:
        return False
    start = 0
    for name, size in zip(node.output, sizes, strict=True):
        ties.share(name, groups[start : start + size] if axis == 1 else groups)
        start += size if axis == 1 else 0
    return axis > 1 or start == len(groups)


def _tie_slice(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """A Slice of the channels, of other axes, or of both."""
    source, view = node.input[0], ties.view
    starts, ends = _read_integers(view, node, 1), _read_integers(view, node, 2)
    groups = ties.groups(source)
    if view.is_constant(source) or starts is None or ends is None or not len(groups):
        return False
    rank = len(view.shape(source) or ())
    axes = _read_integers(view, node, 3) or tuple(range(len(starts)))
    steps = _read_integers(view, node, 4) or (1,) * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis % rank == 1:
            ends_behind_all = step < 0 and end < -len(groups)
            groups = groups[start : None if ends_behind_all else end : step]
    if len(groups) != ties.count_channels(node.output[0]):
        return False
    ties.share(node.output[0], groups)
    return True


def _tie_depth_to_space(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """The pixels of a block come from channels that then have to be scaled alike."""
    groups, count = ties.groups(node.input[0]), ties.count_channels(node.output[0])
    if ties.view.is_constant(node.input[0]) or not count or len(groups) % count:
        return False
    rows_first = read_attribute(node, "mode", b"DCR") == b"DCR"
    blocks = groups.reshape(-1, count) if rows_first else groups.reshape(count, -1).T
    for other in blocks[1:]:
        ties.join(blocks[0], other)
    ties.share(node.output[0], blocks[0])
    return True


def _tie_space_to_depth(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    groups, count = ties.groups(node.input[0]), ties.count_channels(node.output[0])
    if ties.view.is_constant(node.input[0]) or not len(groups) or count % len(groups):
        return False
    ties.share(node.output[0], np.tile(groups, count // len(groups)))
    return True


def _tie_alike(ties: ScaleTies, node: onnx.NodeProto, first: int = 0) -> bool:
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


def _scale_alike(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    powers = -scaler.exponents(node.output[0])
    for index, name in enumerate(node.input):
        if name and scaler.view.is_float(name) and scaler.view.is_constant(name):
            scaler.scale_operand(node, index, powers, node.output[0])


def _tie_where(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    return _tie_alike(ties, node, first=1)


def _tie_product(ties: ScaleTies, node: onnx.NodeProto) -> bool:
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


def _scale_product(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
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
                ties.fix(others, f"it is the other factor of {_describe(node)}")
                break
        else:
            ties.fix([*node.input, result], f"neither factor of {_describe(node)} can be scaled")


def _count_pixels(view: GraphView) -> Callable[[str], int]:
    return lambda name: -view.per_sample(name)


def _tie_weights(ties: ScaleTies, node: onnx.NodeProto) -> bool:
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


def _scale_weights(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
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


def _tie_normalisation(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Its own scale and bias bring channels to any size; its statistics are those of what it reads."""
    if not all(ties.view.is_constant(name) for name in node.input[1:]):
        return False
    if not ties.count_channels(node.output[0]):
        return False
    ties.fix(node.input[:1], f"{_describe(node)} takes its statistics")
    ties.open(node.output[0])
    return True


def _scale_normalisation(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    given = scaler.exponents(node.output[0])
    scaler.scale(node, 1, -given)
    scaler.scale(node, 2, -given)


def _tie_batch_norm(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Its statistics are constants, so that it takes any scale in."""
    constant = all(ties.view.is_constant(name) for name in node.input[1:])
    if not constant or read_attribute(node, "training_mode", 0) or not ties.count_channels(node.output[0]):
        return False
    ties.open(node.output[0])
    return True


def _scale_batch_norm(scaler: ConstantScaler, node: onnx.NodeProto) -> None:
    given, read = scaler.exponents(node.output[0]), scaler.exponents(node.input[0])
    for index, powers in ((1, read - given), (2, -given), (3, -read)):
        scaler.scale(node, index, powers)


def _read_integers(view: GraphView, node: onnx.NodeProto, index: int) -> tuple[int, ...] | None:
    """The integers of a constant input; empty where it is not given, None where it is computed."""
    if not _has_input(node, index):
        return ()
    name = node.input[index]
    return tuple(int(value) for value in view.constant(name).reshape(-1)) if view.is_constant(name) else None


def _has_input(node: onnx.NodeProto, index: int) -> bool:
    return index < len(node.input) and bool(node.input[index])


def _read_axis(view: GraphView, node: onnx.NodeProto, tensor: str) -> int:
    axis, rank = read_attribute(node, "axis", 0), len(view.shape(tensor) or ())
    assert isinstance(axis, int)
    return axis % rank if rank else -1


def _describe(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r}"


def _list(passing: Passing, names: Sequence[str]) -> dict[str, Passing]:
    return dict.fromkeys(names, passing)


_HOMOGENEOUS = (
    "Relu", "LeakyRelu", "Identity", "Dropout", "Abs", "Neg", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool", "Expand", "Tile",
)  # fmt: skip

OPERATORS: dict[str, Passing] = {
    **_list(Passing(_share_same_rank), _HOMOGENEOUS),
    **_list(Passing(_tie_reduction), ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")),
    **_list(Passing(_tie_reshape), ("Reshape", "Flatten", "Squeeze", "Unsqueeze")),
    "Resize": Passing(_tie_resize),
    "Pad": Passing(_tie_pad),
    "PRelu": Passing(_tie_prelu),
    "Clip": Passing(_tie_clip),
    "Transpose": Passing(_tie_transpose),
    "Concat": Passing(_tie_concat),
    "Split": Passing(_tie_split),
    "Slice": Passing(_tie_slice),
    "DepthToSpace": Passing(_tie_depth_to_space),
    "SpaceToDepth": Passing(_tie_space_to_depth),
    **_list(Passing(_tie_alike, _scale_alike), ("Add", "Sub", "Sum", "Mean", "Max", "Min")),
    "Where": Passing(_tie_where, _scale_alike),
    **_list(Passing(_tie_product, _scale_product), ("Mul", "Div")),
    **_list(Passing(_tie_weights, _scale_weights), ("Conv", "ConvTranspose", "Gemm", "MatMul")),
    "InstanceNormalization": Passing(_tie_normalisation, _scale_normalisation),
    "BatchNormalization": Passing(_tie_batch_norm, _scale_batch_norm),
}


def tie_node(ties: ScaleTies, node: onnx.NodeProto) -> None:
    """Put the channels of what ``node`` gives into groups, and join or fix those that it reads."""
    view = ties.view
    floats = [name for name in node.output if name and view.is_float(name)]
    passing = OPERATORS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    if passing is not None and len(floats) == len([name for name in node.output if name]) and passing.tie(ties, node):
        return
    for name in floats:
        ties.open(name)
    ties.fix(view.activations(node), f"{_describe(node)} sees the scale")
    ties.fix(floats, f"{_describe(node)} makes it")
