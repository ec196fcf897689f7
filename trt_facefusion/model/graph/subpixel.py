"""Transposed convolutions as convolutions that compute all phases of the finer grid at once.

A transposed convolution of stride s is s*s convolutions, one for each position within a step, whose results are
interleaved: one convolution with s*s times the channels, and a DepthToSpace. That one runs in INT8 with every engine
maker, which is true of no transposed convolution. Where s divides the kernel it costs no more; where it does not, the
smaller phases are filled up with zeros (3x3 at stride 2: 16 products instead of 9), which eats up what INT8 saves.

Source: W. Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv 1609.07009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trt_facefusion.model.graph.view import GraphView, read_attribute
from trt_facefusion.types import Array


@dataclass(frozen=True)
class Subpixel:
    """What stands for a transposed convolution: nodes in order, the constants that they read, the result's name."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, Array]
    result: str


def rewrite_transposed(model: onnx.ModelProto) -> bool:
    """Write the transposed convolutions of ``model`` whose stride divides their kernel as convolutions, in place.

    Gives whether there were any. Weights and biases must be constants, sizes known. New tensors have no ``value_info``.
    """
    view = GraphView(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        made = _convert_constant(view, node) if node.op_type == "ConvTranspose" else None
        if made is None:
            nodes.append(node)
            continue
        made.nodes[-1].output[0] = node.output[0]
        nodes += made.nodes
        model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in made.constants.items())
    changed = len(nodes) > len(model.graph.node)
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return changed


def _convert_constant(view: GraphView, node: onnx.NodeProto) -> Subpixel | None:
    size, weight = view.shape(node.output[0]), view.weight(node)
    if weight is None or size is None or len(size) != 4 or view.computes_bias(node):
        return None
    height, width = size[2:]
    strides = _read_integers(node, "strides", (1, 1))
    exact = len(strides) == 2 and all(
        k % s == 0 for k, s in zip(view.constant(weight).shape[2:], strides, strict=False)
    )
    if not exact or not isinstance(height, int) or not isinstance(width, int):
        return None
    bias = view.bias(node)
    values = None if bias is None else view.constant(bias)
    return make_subpixel(node, node.input[0], view.constant(weight), (height, width), values)


def make_subpixel(
    node: onnx.NodeProto, source: str, weight: Array, size: tuple[int, int], bias: Array | None = None
) -> Subpixel | None:
    """``node`` (ConvTranspose) of ``source`` with the constant ``weight`` [Cin,Cout,kh,kw] and ``bias`` [Cout].

    ``size`` is the height and width of its output. The convolution keeps the node's name. None for groups, dilations,
    strides that differ between the axes or are 1, and automatic padding.
    """
    strides = _read_integers(node, "strides", (1, 1))
    pads = _read_integers(node, "pads", (0, 0, 0, 0))
    plain = (
        weight.ndim == 4
        and read_attribute(node, "group", 1) == 1
        and read_attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET", b"VALID", "VALID")
        and set(_read_integers(node, "dilations", (1, 1))) == {1}
        and read_attribute(node, "output_shape") is None
        and strides[0] == strides[1] > 1
        and len(pads) == 4
    )
    if not plain:
        return None
    stride = strides[0]
    taps = tuple(math.ceil(kernel / stride) for kernel in weight.shape[2:])
    constants: dict[str, Array] = {f"{node.name}/phases": _arrange_phases(weight, stride, (taps[0], taps[1]))}
    before, ends = (taps[0] - 1, taps[1] - 1), (pads[0] + size[0], pads[1] + size[1])
    extra = _read_integers(node, "output_padding", (0, 0))
    whole = [
        size[axis] + pads[axis] + pads[axis + 2] - extra[axis] - weight.shape[axis + 2] + taps[axis] * stride
        for axis in (0, 1)
    ]
    beyond = [max(0, -(-(ends[axis] - whole[axis]) // stride)) for axis in (0, 1)]
    around = [*before, before[0] + beyond[0], before[1] + beyond[1]]
    out = f"{node.name}/subpixel"
    reads = [source, f"{node.name}/phases"]
    if bias is not None:
        constants[f"{out}/bias"] = np.repeat(bias, stride**2)
        reads.append(f"{out}/bias")
    nodes = [
        helper.make_node("Conv", reads, [f"{out}/packed"], node.name, pads=around),
        helper.make_node("DepthToSpace", [f"{out}/packed"], [f"{out}/whole"], out, blocksize=stride, mode="CRD"),
    ]
    if pads[:2] == (0, 0) and [w + b * stride for w, b in zip(whole, beyond, strict=True)] == list(size):
        return Subpixel(tuple(nodes), constants, f"{out}/whole")
    cropping = {"starts": pads[:2], "ends": ends, "axes": (2, 3)}
    constants |= {f"{out}/{name}": np.array(value, np.int64) for name, value in cropping.items()}
    reads = [f"{out}/whole", *(f"{out}/{name}" for name in cropping)]
    nodes.append(helper.make_node("Slice", reads, [f"{out}/cropped"], f"{out}/crop"))
    return Subpixel(tuple(nodes), constants, f"{out}/cropped")


def _arrange_phases(weight: Array, stride: int, taps: tuple[int, int]) -> Array:
    """Weights [Cout*s*s,Cin,th,tw] of the convolution that computes all phases."""
    inputs, outputs, height, width = weight.shape
    rows, cols = taps
    filled = np.zeros((inputs, outputs, rows * stride, cols * stride), weight.dtype)
    filled[:, :, :height, :width] = weight
    split = filled.reshape(inputs, outputs, rows, stride, cols, stride)[:, :, ::-1, :, ::-1]
    ordered = split.transpose(1, 3, 5, 0, 2, 4)
    return np.ascontiguousarray(ordered.reshape(outputs * stride**2, inputs, rows, cols))


def _read_integers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = read_attribute(node, name)
    return tuple(int(size) for size in value) if isinstance(value, (list, tuple)) and value else default
