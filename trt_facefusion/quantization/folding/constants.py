"""A copy of a graph whose constants are multiplied with powers of two, each for the node that reads it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.messages import strip_weights
from trt_facefusion.types import Array

Exponents = NDArray[np.int64]
"""log2 of what each channel of a tensor is divided by, [C]."""


def can_scale(view: GraphView, constant: str, tensor: str) -> bool:
    """Whether ``constant``, an operand of ``tensor``'s shape or broadcast to it, can hold a factor for each channel.

    One that has values for pixels but not for channels would grow by the number of channels.
    """
    values, shape = view.constant(constant), view.shape(tensor) or ()
    if not values.any():
        return True
    if values.ndim > len(shape):
        return False
    grown = _align(values, len(shape))
    return grown.shape[1] == shape[1] or grown.size == 1


def _align(values: Array, rank: int) -> Array:
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


class ConstantScaler:
    """Scales what nodes read. ``exponents`` are those of all tensors whose channels are scaled."""

    def __init__(self, view: GraphView, exponents: Mapping[str, Exponents]) -> None:
        self.view = view
        self._exponents = exponents
        self._values: dict[str, Array] = {}
        self._nodes: dict[str, onnx.NodeProto] = {}

    def exponents(self, tensor: str) -> Exponents:
        """log2 of what each channel is divided by, [C]; zeros where it is left alone."""
        shape = self.view.shape(tensor) or (0, 0)
        count = shape[1] if len(shape) > 1 and isinstance(shape[1], int) else 0
        return self._exponents.get(tensor, np.zeros(count, np.int64))

    def scale(self, node: onnx.NodeProto, index: int, powers: Exponents) -> None:
        """Multiply the constant input ``index`` of ``node`` with two to the ``powers`` (broadcast)."""
        if index >= len(node.input) or not node.input[index] or not powers.any():
            return
        name = node.input[index]
        values = self.view.constant(name)
        if not values.any():
            return
        own = name if self._is_read_once(name) else f"{name}__scaled_for_{node.name}_{index}"
        self._values[own] = np.ldexp(values, powers).astype(values.dtype)
        self._nodes.setdefault(node.name, _copy(node)).input[index] = own

    def scale_operand(self, node: onnx.NodeProto, index: int, powers: Exponents, tensor: str) -> None:
        """`scale` for an operand that is broadcast to ``tensor``; ``powers`` [C] are those of its channels."""
        if not powers.any():
            return
        rank = len(self.view.shape(tensor) or ())
        name, aligned = node.input[index], powers.reshape(1, -1, *(1,) * (rank - 2))
        if self.view.constant(name).ndim == rank - 1:  # keep the rank: [C,1,1] beside [N,C,H,W]
            aligned = aligned[0]
        self.scale(node, index, aligned)

    def assemble(self) -> GraphView:
        """The graph with all that was scaled; every node and tensor keeps its name."""
        source = self.view.model
        model = strip_weights(source, 0)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(self._nodes.get(node.name, node) for node in source.graph.node)
        read = {*self.view.output_names, *(name for node in model.graph.node for name in node.input)}
        for tensor in source.graph.initializer:
            if tensor.name in read and tensor.name not in self._values:
                model.graph.initializer.append(tensor)
        model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in self._values.items())
        return GraphView(model)

    def _is_read_once(self, name: str) -> bool:
        readers = self.view.consumers[name]
        return len(readers) == 1 and list(readers[0].input).count(name) == 1


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied
