"""One zero point for a tensor in place of a shift for each of its channels, in a typed graph.

A shift of channels needs the padding in front of it, by a Pad of its own (see `channel_affine`). Where an engine maker
quantises about a zero point (uint8) and lets its convolutions pad with that, nothing stands between what makes a tensor
and the convolution that reads it: the maker quantises where the tensor is made. One zero point serves all channels,
whose scales were chosen for a shift each: what is lost by that, the ends of the grid win back, which are chosen anew.

A shifted layer computes ``W q + b`` with ``q ~ x / f - o``, and ``b`` holds what its weights make of the offsets. About
a zero point ``q ~ x / f``, so that ``W o`` is taken out of the bias again, with the weights as they are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from trt_facefusion.quantization.correction.channel_affine import OFFSETS, read_integers
from trt_facefusion.quantization.correction.grid import round_scale
from trt_facefusion.quantization.lowering.rewriting import GraphEditor
from trt_facefusion.types import Array

_LEVELS = 255


@dataclass(frozen=True)
class ShiftedTensor:
    """A tensor whose channels are shifted in front of a quantiser, and the nodes that do it, padding first.

    ``reciprocals`` and ``offsets`` [C] are those of ``x * reciprocals - offsets``.
    """

    tensor: str
    before: tuple[onnx.NodeProto, ...]
    quantise: onnx.NodeProto
    dequantise: onnx.NodeProto
    readers: tuple[onnx.NodeProto, ...]
    reciprocals: NDArray[np.float32]
    offsets: NDArray[np.float32]

    @property
    def pads(self) -> tuple[onnx.NodeProto, ...]:
        """The Pad in front, if there is one."""
        return tuple(node for node in self.before if node.op_type == "Pad")


def find_shifted_tensors(typed: onnx.ModelProto) -> list[ShiftedTensor]:
    """The tensors whose channels a lowered graph shifts; one that is padded in two ways is there twice."""
    graph = GraphEditor(typed)
    return [shifted for node in typed.graph.node if (shifted := _read_shifted(graph, node)) is not None]


def use_zero_points(typed: onnx.ModelProto, bounds: Mapping[str, tuple[float, float]]) -> onnx.ModelProto:
    """A copy of ``typed`` that quantises shifted tensors about a zero point.

    Args:
        typed: a lowered graph.
        bounds: what is quantised of each shifted tensor, behind the scale of its channels; tensors that are not named
            stay as they are.
    """
    model = onnx.ModelProto()
    model.CopyFrom(typed)
    graph = GraphEditor(model)
    for shifted in find_shifted_tensors(model):
        if shifted.tensor in bounds:
            _replace_shift(graph, shifted, *bounds[shifted.tensor])
    return graph.finish()


def choose_grid(low: float, high: float, element_type: int) -> tuple[Array, NDArray[np.uint8]]:
    """Scale, as it is stored, and zero point of a grid over ``low`` <= 0 <= ``high``."""
    scale = round_scale(np.float32((high - low) / _LEVELS), element_type)
    return scale, np.asarray(np.clip(np.rint(-low / float(scale)), 0, _LEVELS), np.uint8)


def _read_shifted(graph: GraphEditor, quantise: onnx.NodeProto) -> ShiftedTensor | None:
    shift = graph.producer.get(quantise.input[0]) if quantise.op_type == "QuantizeLinear" else None
    if shift is None or shift.op_type != "Sub" or not shift.input[1].endswith(OFFSETS):
        return None
    before = [shift]
    while (node := graph.producer.get(before[0].input[0])) is not None and _is_of_affine(graph, node):
        before.insert(0, node)
    (dequantise,) = graph.readers[quantise.output[0]]
    offsets = graph.read_constant(shift.input[1]).astype(np.float32).reshape(-1)
    scaling = next((node for node in before if node.op_type == "Mul"), None)
    reciprocals = (
        np.ones_like(offsets) if scaling is None else graph.read_constant(scaling.input[1]).astype(np.float32).ravel()
    )
    return ShiftedTensor(
        shift.input[1].removesuffix(OFFSETS),
        tuple(before),
        quantise,
        dequantise,
        tuple(graph.readers[dequantise.output[0]]),
        reciprocals,
        offsets,
    )


def _is_of_affine(graph: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether a node is the padding or the scale of a shift, and serves nothing else."""
    if node.op_type not in {"Pad", "Mul"} or node.input[1] not in graph.constants:
        return False
    return len(graph.readers[node.output[0]]) == 1 and node.name.endswith(("__pad", "__equalise"))


def _replace_shift(graph: GraphEditor, shifted: ShiftedTensor, low: float, high: float) -> None:
    scale, zero = choose_grid(low, high, graph.constants[shifted.quantise.input[1]].data_type)
    scale_name = graph.add_constant(f"{shifted.tensor}__zero_point_scale", scale)
    zero_name = graph.add_constant(f"{shifted.tensor}__zero_point", zero)
    for node in (shifted.quantise, shifted.dequantise):
        node.input[1], node.input[2] = scale_name, zero_name
    scaling = next((node for node in shifted.before if node.op_type == "Mul"), None)
    source = shifted.before[0].input[0]
    if scaling is not None:
        scaling.input[0] = source
        source = scaling.output[0]
    shifted.quantise.input[0] = source
    for reader in shifted.readers:
        for pad in shifted.pads:
            _pad_again(reader, graph.read_constant(pad.input[1]))
        reader.input[2] = graph.add_constant(
            f"{reader.input[2]}__unshifted", _unshift_bias(graph, reader, shifted.offsets)
        )


def _pad_again(reader: onnx.NodeProto, sizes: Array) -> None:
    spatial = [int(size) for size in (*sizes[2:4], *sizes[6:8])]
    if any(read_integers(reader, "pads")):
        raise ValueError(f"{reader.name!r} pads what was padded for it")
    for attribute in [attribute for attribute in reader.attribute if attribute.name == "pads"]:
        reader.attribute.remove(attribute)
    reader.attribute.append(helper.make_attribute("pads", spatial))


def _unshift_bias(graph: GraphEditor, reader: onnx.NodeProto, offsets: NDArray[np.float32]) -> Array:
    """The bias without what the quantised weights [O,C,...] make of ``offsets`` [C]."""
    values, scale = (graph.read_constant(name).astype(np.float64) for name in graph.producer[reader.input[1]].input[:2])
    taps = values.sum(tuple(range(2, values.ndim))) * scale.reshape(-1, 1)
    bias = graph.read_constant(reader.input[2])
    return np.asarray(bias.astype(np.float64) - taps @ offsets.astype(np.float64), bias.dtype)
