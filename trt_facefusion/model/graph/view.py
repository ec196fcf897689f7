"""A prepared ONNX graph with its edges, shapes and constants at hand."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import onnx
from onnx import TensorProto, numpy_helper

from trt_facefusion.model.graph.masks import find_masked_tensors
from trt_facefusion.model.graph.sizes import ONLY_THE_SHAPE, find_size_nodes
from trt_facefusion.model.messages import hash_model
from trt_facefusion.types import Array

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})


class GraphView:
    """Read-only index over a model that `prepare` made. Tensors and nodes are addressed by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: dict[str, onnx.NodeProto] = {node.name: node for node in model.graph.node}
        self.producer: dict[str, onnx.NodeProto] = {o: node for node in model.graph.node for o in node.output if o}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                if name:
                    self.consumers[name].append(node)
        self.input_names = [value.name for value in model.graph.input]
        self.output_names = [value.name for value in model.graph.output]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model's serialised form, weights included; takes seconds where they are large, but once."""
        return hash_model(self.model).hexdigest()

    @cached_property
    def _constants(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def _values(self) -> dict[str, onnx.ValueInfoProto]:
        graph = self.model.graph
        return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}

    @cached_property
    def _size_nodes(self) -> set[str]:
        return find_size_nodes(self.model.graph)

    @cached_property
    def masked(self) -> set[str]:
        """Tensors that hold the minus infinity of a mask (`masks`)."""
        return find_masked_tensors(self.model.graph)

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is an initializer."""
        return name in self._constants

    def constant(self, name: str) -> Array:
        """The initializer's values."""
        return numpy_helper.to_array(self._constants[name])

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        """Shape with names for unknown sizes, or None where even the rank is unknown."""
        if name in self._constants:
            return tuple(self._constants[name].dims)
        value = self._values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(
            d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in value.type.tensor_type.shape.dim
        )

    def element_type(self, name: str) -> int:
        """ONNX element type, 0 where unknown."""
        if name in self._constants:
            return self._constants[name].data_type
        value = self._values.get(name)
        return value.type.tensor_type.elem_type if value is not None else 0

    def is_float(self, name: str) -> bool:
        """Whether the tensor holds floats (of any width we convert)."""
        return self.element_type(name) in FLOATS

    def per_sample(self, name: str) -> int:
        """Number of elements for a batch of one (0 where a size is unknown)."""
        shape = self.shape(name)
        if shape is None:
            return 0
        count = 1
        for axis, size in enumerate(shape):
            if isinstance(size, int):
                count *= size
            elif axis > 0:
                return 0
        return count

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """The node's float inputs that are not constants."""
        return [
            name for name in dict.fromkeys(node.input) if name and not self.is_constant(name) and self.is_float(name)
        ]

    def weight(self, node: onnx.NodeProto) -> str | None:
        """The constant weight of a convolution or linear node, if it has one."""
        if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"} and self.is_constant(node.input[1]):
            return node.input[1]
        return None

    def bias(self, node: onnx.NodeProto) -> str | None:
        """The bias of a convolution or linear node, constant or computed, if it has one."""
        return node.input[2] if len(node.input) > 2 and node.input[2] else None

    def computes_bias(self, node: onnx.NodeProto) -> bool:
        """Whether the bias depends on what is fed."""
        bias = self.bias(node)
        return bias is not None and not self.is_constant(bias)

    def float_nodes(self) -> list[onnx.NodeProto]:
        """Nodes that compute on float tensors, in graph order: those that a plan speaks of.

        Left out is arithmetic that ends as sizes (`sizes`): it is never lowered.
        """
        return [
            n
            for n in self.model.graph.node
            if n.op_type not in ONLY_THE_SHAPE
            and n.name not in self._size_nodes
            and any(self.is_float(t) for t in (*n.input, *n.output) if t)
        ]


def read_attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute, or ``default``."""
    for candidate in node.attribute:
        if candidate.name == name:
            value: object = onnx.helper.get_attribute_value(candidate)
            return value
    return default
