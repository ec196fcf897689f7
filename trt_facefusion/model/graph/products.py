"""Tensors as products: which elements of which other tensors each element is the product of.

Weights that are computed from a style are products of constants and small tensors, brought to one shape by reshaping,
transposing and broadcasting in many ways. Following *indices* through these operators, rather than recognising shapes,
tells what depends on what however an exporter wrote it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.model.graph.layout import MOVING_OPERATORS
from trt_facefusion.model.graph.view import GraphView, read_attribute

_Index = NDArray[np.int32]
_MOST_ELEMENTS = 1 << 26
_LAYOUT = MOVING_OPERATORS - {"Transpose"}


@dataclass(frozen=True)
class Factor:
    """``tensor`` as a factor: element e of the product holds its element ``index[e]`` (or one over it).

    ``index`` has the product's shape and counts the elements of ``tensor`` in order.
    """

    tensor: str
    index: _Index
    inverse: bool = False


def find_factors(view: GraphView, name: str) -> tuple[Factor, ...]:
    """What the tensor ``name`` is a product of; the tensor itself where it is none, or where sizes are not known.

    Only tensors with as many elements as ``name`` are taken apart: what is smaller is a factor, however it is computed.
    """
    shape = read_fixed_shape(view, name)
    if shape is None or math.prod(shape) > _MOST_ELEMENTS:
        return ()
    return _follow_factors(view, name, shape, math.prod(shape))


def read_fixed_shape(view: GraphView, name: str) -> tuple[int, ...] | None:
    """The tensor's shape, where all of its sizes are known."""
    shape = view.shape(name)
    sizes = tuple(size for size in shape or () if isinstance(size, int))
    return sizes if shape is not None and len(sizes) == len(shape) else None


def _follow_factors(view: GraphView, name: str, shape: tuple[int, ...], elements: int) -> tuple[Factor, ...]:
    node = view.producer.get(name)
    itself = (Factor(name, np.arange(math.prod(shape), dtype=np.int32).reshape(shape)),)
    if node is None or view.is_constant(name) or math.prod(shape) < elements:
        return itself
    if node.op_type in {"Mul", "Div"}:
        return _combine_operands(view, node, shape, elements) or itself
    source = read_fixed_shape(view, node.input[0]) if node.input else None
    if source is None or not _is_move(view, node):
        return itself
    inner = _follow_factors(view, node.input[0], source, elements)
    return tuple(replace(factor, index=_move_index(view, node, factor.index, shape)) for factor in inner)


def _combine_operands(
    view: GraphView, node: onnx.NodeProto, shape: tuple[int, ...], elements: int
) -> tuple[Factor, ...]:
    parts: list[Factor] = []
    for position, name in enumerate(node.input):
        own = read_fixed_shape(view, name)
        if own is None:
            return ()
        divides = node.op_type == "Div" and position == 1
        for factor in _follow_factors(view, name, own, elements):
            index = np.broadcast_to(factor.index, shape)
            parts.append(replace(factor, index=index, inverse=factor.inverse != divides))
    return tuple(parts)


def _is_move(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether the node only moves or repeats the elements of its first input, in a way that is known."""
    if node.op_type == "Cast":
        return view.element_type(node.input[0]) == view.element_type(node.output[0])
    if node.op_type == "Tile":
        return view.is_constant(node.input[1])
    return node.op_type in _LAYOUT | {"Transpose", "Expand"}


def _move_index(view: GraphView, node: onnx.NodeProto, index: _Index, shape: tuple[int, ...]) -> _Index:
    if node.op_type == "Transpose":
        order = read_attribute(node, "perm")
        return np.transpose(index, order if isinstance(order, (list, tuple)) else None)
    if node.op_type == "Expand":
        return np.broadcast_to(index, shape)
    if node.op_type == "Tile":
        return np.asarray(np.tile(index, view.constant(node.input[1]).tolist()), np.int32)
    return index.reshape(shape)
