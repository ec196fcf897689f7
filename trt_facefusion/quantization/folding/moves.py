"""Operators that pass scales of channels on: they move, select, rectify or average values, channel by channel.

Each function puts the channels of a node's result into groups, and is False where the node, as it is, cannot be passed.
"""

from __future__ import annotations

import numpy as np
import onnx

from trt_facefusion.model.graph import GraphView, read_attribute
from trt_facefusion.quantization.folding.arithmetic import tie_alike
from trt_facefusion.quantization.folding.ties import ScaleTies, describe_node


def share(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """The first output is scaled like the first input, channel by channel."""
    source, result = node.input[0], node.output[0]
    if ties.view.is_constant(source) or ties.count_channels(source) != ties.count_channels(result):
        return False
    ties.share(result, ties.groups(source))
    return True


def share_same_rank(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """`share`, where the number of axes stays."""
    return ties.share_axis([node.input[0], node.output[0]]) and share(ties, node)


def tie_resize(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Any resize of pixels that fills in zeros, if anything."""
    crops = read_attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    return not (crops and read_attribute(node, "extrapolation_value", 0.0)) and share_same_rank(ties, node)


def tie_pad(ties: ScaleTies, node: onnx.NodeProto) -> bool:
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
    return share_same_rank(ties, node)


def tie_prelu(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Slopes of channels are ratios, and stay."""
    if not ties.view.is_constant(node.input[1]):
        ties.fix(node.input[1:], f"it is the slope of {describe_node(node)}")
    return share_same_rank(ties, node)


def tie_clip(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """A Clip that only cuts off at zero."""
    view = ties.view
    if _has_input(node, 2) or not (_has_input(node, 1) and view.is_constant(node.input[1])):
        return False
    return not view.constant(node.input[1]).any() and share_same_rank(ties, node)


def tie_reduction(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """A reduction over axes behind the channels' that gives twice as much for twice as much."""
    axes = _read_integers(ties.view, node, 1)
    rank = len(ties.view.shape(node.input[0]) or ())
    return axes is not None and bool(axes) and all(axis % max(rank, 1) > 1 for axis in axes) and share(ties, node)


def tie_reshape(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Any view of the same values that keeps batch and channels as the first two axes."""
    before, behind = (ties.view.shape(name) or () for name in (node.input[0], node.output[0]))
    sizes = [size for shape in (before[1:], behind[1:]) for size in shape]
    if len(before) < 2 or len(behind) < 2 or not all(isinstance(size, int) for size in sizes):
        return False
    pixels = [int(np.prod(np.array(shape[2:], np.int64))) for shape in (before, behind)]
    return pixels[0] == pixels[1] and share(ties, node)


def tie_transpose(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Any order of axes that leaves batch and channels in place."""
    order = read_attribute(node, "perm")
    return isinstance(order, list) and list(order[:2]) == [0, 1] and share(ties, node)


def tie_concat(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Of channels, each side by side; of other axes, where all operands are scaled alike."""
    view, axis = ties.view, _read_axis(ties.view, node, node.output[0])
    if any(view.is_constant(name) for name in node.input) or axis < 1:
        return False
    if axis > 1:
        return tie_alike(ties, node)
    groups = [ties.groups(name) for name in node.input]
    if 0 in map(len, groups):
        return False
    ties.share(node.output[0], np.concatenate(groups))
    return True


def tie_split(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Of channels or of other axes."""
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


def tie_slice(ties: ScaleTies, node: onnx.NodeProto) -> bool:
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


def tie_depth_to_space(ties: ScaleTies, node: onnx.NodeProto) -> bool:
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


def tie_space_to_depth(ties: ScaleTies, node: onnx.NodeProto) -> bool:
    """Each pixel of a block becomes a channel, scaled like the one that it came from."""
    groups, count = ties.groups(node.input[0]), ties.count_channels(node.output[0])
    if ties.view.is_constant(node.input[0]) or not len(groups) or count % len(groups):
        return False
    ties.share(node.output[0], np.tile(groups, count // len(groups)))
    return True


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
