"""StyleGAN2's modulated convolution with constant weights.

Its weights are computed for every sample: constant weights times a style for each input channel, divided by the norm
that results for each output channel ("demodulation"). Computed weights cannot be quantised beforehand. A convolution is
linear in its input, so the style may as well multiply the input's channels and the norm divide the output's:

    conv(x, W * s * d) = conv(x * s, W) * d,    1 / d**2 = sum((W * s)**2) + eps = s**2 @ sum(W**2) + eps

The picture is the same; the weights are constant, and the norms take a small matrix product instead of passes over all
weights. A batch that was folded into groups (each sample has weights of its own) is unfolded. Transposed convolutions
of this kind become convolutions (`subpixel`), because engine makers run only these in INT8.

Source: T. Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_facefusion.model.graph.products import Factor, find_factors, read_fixed_shape
from trt_facefusion.model.graph.subpixel import make_subpixel
from trt_facefusion.model.graph.view import GraphView, read_attribute
from trt_facefusion.types import Array

_SQUARES = frozenset({"ReduceSumSquare", "ReduceL2"})
_SUMS = frozenset({"ReduceSum", "ReduceMean"})
_PRODUCTS = frozenset({"Mul", "Div", "Reshape", "Transpose"})
_LARGEST_MATRIX = 1 << 24


def rewrite_modulated(model: onnx.ModelProto) -> bool:
    """Give every modulated convolution of ``model`` constant weights, in place; whether there was any.

    The shapes of tensors must be known and constants folded. Nodes whose results nobody reads any more are left in, and
    new tensors have no ``value_info``. A convolution keeps its name.
    """
    view = GraphView(model)
    rewriting = _Rewriting(view)
    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose"} and not view.is_constant(node.input[1]):
            rewriting.convolution(node)
    for node in model.graph.node:
        if node.op_type in _SQUARES | _SUMS:
            rewriting.norm(node)
    if not rewriting.replaced:
        return False
    nodes = [new for node in model.graph.node for new in rewriting.replaced.get(node.name, [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in rewriting.constants.items())
    return True


@dataclass(frozen=True)
class _Modulated:
    """A convolution's weights as ``constant`` times ``styles`` (by input) and ``norms`` (by output channel).

    Indices and the constant have the shape [groups, outputs, inputs, taps].
    """

    constant: NDArray[np.float64]
    styles: tuple[Factor, ...]
    norms: tuple[Factor, ...]


@dataclass
class _Rewriting:
    """Nodes that replace others, by the name of the replaced one, and the constants that they read."""

    view: GraphView
    replaced: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def convolution(self, node: onnx.NodeProto) -> None:
        """Replace ``node`` where its weights are constants, styles and norms multiplied."""
        source, shape = self.view.shape(node.input[0]), read_fixed_shape(self.view, node.input[1])
        modulated = _find_modulated(self.view, node, shape) if shape is not None and source is not None else None
        if modulated is None or shape is None or source is None:
            return
        groups = modulated.constant.shape[0]
        unfolded = groups > 1 and source[0] == 1 and bool((modulated.constant == modulated.constant[:1]).all())
        self._replace(node, modulated, shape, groups if unfolded else 1)

    def _replace(self, node: onnx.NodeProto, modulated: _Modulated, shape: tuple[int, ...], batch: int) -> None:
        made = _NodeMaker(node.name, self.constants)
        rank = len(shape) - 2
        groups, outputs, inputs, _ = modulated.constant.shape
        x = _skip_reshape(self.view, node.input[0])
        if batch > 1:
            x = made.op("Reshape", node.input[0], made.const([batch, inputs, *[0] * rank]), name="unfolded")
        styles = [made.vector(self.view, f, f.index[:, 0, :, 0], batch, rank) for f in modulated.styles]
        if styles:
            x = made.op("Mul", x, made.product(styles, "style"), name="modulated")
        y = self._plain(made, node, x, modulated, shape, batch)
        norms = [made.vector(self.view, f, f.index[:, :, 0, 0], batch, rank) for f in modulated.norms]
        if norms:
            y = made.op("Mul", y, made.product(norms, "norm"), name="demodulated")
        if len(node.input) > 2 and node.input[2]:
            to = made.const([batch, groups * outputs // batch, *[1] * rank])
            y = made.op("Add", y, made.op("Reshape", node.input[2], to, name="bias"), name="shifted")
        if batch > 1:
            y = made.op("Reshape", y, made.const([1, -1, *[0] * rank]), name="folded")
        made.nodes[-1].output[0] = node.output[0]
        self.replaced[node.name] = made.nodes

    def _plain(
        self, made: _NodeMaker, node: onnx.NodeProto, x: str, modulated: _Modulated, shape: tuple[int, ...], batch: int
    ) -> str:
        """The convolution with constant weights, without bias."""
        weight = modulated.constant[:1] if batch > 1 else modulated.constant
        kernel = shape[2:]
        if node.op_type == "ConvTranspose":
            weight = weight.transpose(0, 2, 1, 3)
        values = weight.reshape(-1, weight.shape[2], *kernel).astype(np.float32)
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        if batch > 1:
            for candidate in plain.attribute:
                if candidate.name == "group":
                    candidate.i = 1
        size = read_fixed_shape(self.view, node.output[0])
        if node.op_type == "ConvTranspose" and size is not None and len(size) == 4:
            subpixel = make_subpixel(plain, x, values, (size[2], size[3]))
            if subpixel is not None:
                made.nodes += subpixel.nodes
                self.constants.update(subpixel.constants)
                return subpixel.result
        del plain.input[:]
        plain.input.extend([x, made.const(values, "weight")])
        plain.output[0] = f"{node.name}/plain"
        made.nodes.append(plain)
        return plain.output[0]

    def norm(self, node: onnx.NodeProto) -> None:
        """Replace a sum of squares of modulated weights by a product of the squared style with a constant matrix."""
        squared = _find_squared(self.view, node)
        maker = self.view.producer.get(squared or "")
        if maker is None or maker.op_type not in _PRODUCTS:
            return
        out = read_fixed_shape(self.view, node.output[0])
        shape = read_fixed_shape(self.view, squared) if squared else None
        if squared is None or out is None or shape is None:
            return
        parts = find_factors(self.view, squared)
        constants = [f for f in parts if self.view.is_constant(f.tensor)]
        styles = [f for f in parts if not self.view.is_constant(f.tensor)]
        if len(styles) != 1 or not constants:
            return
        style = read_fixed_shape(self.view, styles[0].tensor)
        axes = _read_axes(self.view, node, len(shape))
        if style is None or math.prod(style) == math.prod(shape) or axes is None:
            return
        batch = shape[0] if 0 not in axes and len(style) > 1 and style[0] == shape[0] else 1
        matrix = _build_matrix(
            _multiply_constants(self.view, constants, shape) ** 2, styles[0].index, axes, math.prod(style), batch
        )
        if matrix is None:
            return
        if node.op_type == "ReduceMean":
            matrix = matrix / math.prod(shape[axis] for axis in axes)
        made = _NodeMaker(node.name, self.constants)
        flat = made.op("Reshape", styles[0].tensor, made.const([batch, len(matrix)]), name="style")
        if styles[0].inverse:
            flat = made.op("Reciprocal", flat, name="inverse")
        y = made.op("Mul", flat, flat, name="squares")
        y = made.op("MatMul", y, made.const(matrix.astype(np.float32), "matrix"), name="sums")
        if node.op_type == "ReduceL2":
            y = made.op("Sqrt", y, name="root")
        made.op("Reshape", y, made.const(out), name="norm")
        made.nodes[-1].name, made.nodes[-1].output[0] = node.name, node.output[0]
        self.replaced[node.name] = made.nodes


@dataclass
class _NodeMaker:
    """Makes nodes and constants under one prefix."""

    prefix: str
    constants: dict[str, Array]
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        full = f"{self.prefix}/{name}"
        self.nodes.append(helper.make_node(kind, inputs, [full], full, **attributes))
        return full

    def const(self, values: Sequence[int] | Array, name: str = "") -> str:
        full = f"{self.prefix}/{name or 'const'}_{len(self.constants)}"
        kept = values if isinstance(values, np.ndarray) else np.array(values, np.int64)
        self.constants[full] = kept
        return full

    def vector(self, view: GraphView, factor: Factor, index: NDArray[np.int32], batch: int, rank: int) -> str:
        """``factor`` as [batch,C,1,...]; ``index`` says which of its elements each channel of each group has."""
        shape = (batch, index.size // batch, *[1] * rank)
        name = factor.tensor
        label = f"factor_{len(self.nodes)}"
        elements = math.prod(read_fixed_shape(view, name) or (0,))
        if elements != index.size or not (index.reshape(-1) == np.arange(elements)).all():
            flat = self.op("Reshape", name, self.const([-1]), name=f"{label}_flat")
            name = self.op("Gather", flat, self.const(index.reshape(shape).astype(np.int64)), name=label)
        elif view.shape(name) != shape:
            name = self.op("Reshape", name, self.const(shape), name=label)
        return self.op("Reciprocal", name, name=f"{label}_inverse") if factor.inverse else name

    def product(self, names: Sequence[str], name: str) -> str:
        """The product of all of ``names``."""
        result, *rest = names
        for position, other in enumerate(rest):
            result = self.op("Mul", result, other, name=f"{name}_{position}")
        return result


def _find_modulated(view: GraphView, node: onnx.NodeProto, shape: tuple[int, ...]) -> _Modulated | None:
    group = read_attribute(node, "group", 1)
    groups = group if isinstance(group, int) else 1
    sizes = (groups, shape[0] // groups, shape[1], math.prod(shape[2:]))

    def by_channel(values: NDArray[Any]) -> NDArray[Any]:
        split = values.reshape(sizes)
        return split if node.op_type == "Conv" else split.transpose(0, 2, 1, 3)

    parts = find_factors(view, node.input[1])
    constants = [f for f in parts if view.is_constant(f.tensor)]
    computed = [Factor(f.tensor, by_channel(f.index), f.inverse) for f in parts if not view.is_constant(f.tensor)]
    styles: list[Factor] = []
    norms: list[Factor] = []
    for factor in computed:
        if (factor.index == factor.index[:, :1, :, :1]).all():
            styles.append(factor)
        elif (factor.index == factor.index[:, :, :1, :1]).all():
            norms.append(factor)
        else:
            return None
    if not constants or not computed:
        return None
    return _Modulated(by_channel(_multiply_constants(view, constants, shape)), tuple(styles), tuple(norms))


def _multiply_constants(view: GraphView, parts: Sequence[Factor], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The product of constant factors."""
    result = np.ones(shape)
    for part in parts:
        values = view.constant(part.tensor).reshape(-1).astype(np.float64)[part.index]
        result = result / values if part.inverse else result * values
    return result


def _skip_reshape(view: GraphView, name: str) -> str:
    """``name``, or what it was before a Reshape that changed nothing."""
    node = view.producer.get(name)
    if node is None or node.op_type != "Reshape":
        return name
    shape = read_fixed_shape(view, name)
    return node.input[0] if shape is not None and view.shape(node.input[0]) == shape else name


def _find_squared(view: GraphView, node: onnx.NodeProto) -> str | None:
    """The tensor whose squares the node sums up."""
    if node.op_type in _SQUARES:
        return str(node.input[0])
    square = view.producer.get(node.input[0])
    if square is None:
        return None
    if square.op_type == "Mul" and square.input[0] == square.input[1]:
        return str(square.input[0])
    if square.op_type == "Pow" and view.is_constant(square.input[1]) and (view.constant(square.input[1]) == 2).all():
        return str(square.input[0])
    return None


def _read_axes(view: GraphView, node: onnx.NodeProto, rank: int) -> tuple[int, ...] | None:
    """The axes that a reduction sums over; None where they are computed or there are none."""
    written = read_attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        if not view.is_constant(node.input[1]):
            return None
        written = view.constant(node.input[1]).reshape(-1).tolist()
    if isinstance(written, (list, tuple)) and written:
        return tuple(sorted(int(axis) % rank for axis in written))
    return None if read_attribute(node, "noop_with_empty_axes", 0) else tuple(range(rank))


def _build_matrix(
    squares: NDArray[np.float64], index: NDArray[np.int32], axes: tuple[int, ...], elements: int, batch: int
) -> NDArray[np.float64] | None:
    """Matrix [elements/batch, sums/batch] whose product with the squared style gives the sums; None where none does."""
    kept = tuple(axis for axis in range(squares.ndim) if axis not in axes)
    order = (*kept, *axes)
    sums = math.prod(squares.shape[axis] for axis in kept) // batch
    own = elements // batch
    ordered = squares.transpose(order).reshape(batch, sums, -1)
    which = index.transpose(order).reshape(batch, sums, -1)
    offsets = np.arange(batch).reshape(-1, 1, 1) * own
    alike = bool((ordered == ordered[:1]).all()) and bool((which == which[:1] + offsets).all())
    if sums * own > _LARGEST_MATRIX or not alike:
        return None
    cells = which[0].astype(np.int64) * sums + np.arange(sums).reshape(-1, 1)
    counted = np.bincount(cells.reshape(-1), ordered[0].reshape(-1), own * sums)
    return np.asarray(counted.reshape(own, sums), np.float64)
