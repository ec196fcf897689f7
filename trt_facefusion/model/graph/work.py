"""The model while it is being prepared: nodes at hand, large weights kept aside.

onnx's own passes (inference, upgrade) take and give serialised models. Large weights would be copied by each of them,
and protobuf ends at 2 GiB; so they are declared to those passes as inputs, and nobody copies them before the end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.border import forget_output_shapes
from trt_facefusion.model.messages import count_tensor_bytes, strip_weights
from trt_facefusion.types import Array

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
LARGE = 1 << 16
"""Initializers of this many bytes are kept aside."""


class Work:
    """A copy of a model. ``model`` has an empty initializer in the place of each that is in ``aside``."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = strip_weights(model, LARGE)
        self.aside = {t.name: t for t in model.graph.initializer if count_tensor_bytes(t) >= LARGE}

    @property
    def graph(self) -> onnx.GraphProto:
        """The graph that is worked on."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return next((o.version for o in self.model.opset_import if o.domain in {"", "ai.onnx"}), 1)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all initializers."""
        return sum(map(count_tensor_bytes, self.graph.initializer))

    def tensor(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """The initializer with its values."""
        return self.aside.get(tensor.name, tensor)

    def add(self, name: str, value: Array) -> onnx.TensorProto:
        """Add an initializer; gives it with its values."""
        return self._place(numpy_helper.from_array(np.asarray(value, order="C"), name))

    def add_tensor(self, name: str, given: onnx.TensorProto) -> onnx.TensorProto:
        """Add a copy of ``given`` as the initializer ``name``; gives it."""
        return self._place(numpy_helper.from_array(numpy_helper.to_array(given), name))

    def _place(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        if count_tensor_bytes(tensor) < LARGE:
            self.graph.initializer.append(tensor)
        else:
            self.aside[tensor.name] = tensor
            self.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        return tensor

    def replace(self, tensor: onnx.TensorProto) -> None:
        """Put ``tensor`` in the place of the initializer of its name."""
        for place in self.graph.initializer:
            if place.name == tensor.name:
                self.aside.pop(tensor.name, None)
                place.CopyFrom(tensor)
                if count_tensor_bytes(tensor) >= LARGE:
                    self.aside[tensor.name] = tensor
                    place.Clear()
                    place.name, place.data_type = tensor.name, tensor.data_type
                    place.dims.extend(tensor.dims)

    def through(self, process: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
        """Let ``process`` make a new model of this one; initializers stay in their order, new ones follow."""
        places = list(self.graph.initializer)
        before = [t.name for t in places]
        aside = {t.name: t for t in places if t.name in self.aside}
        del self.graph.initializer[:]
        self.graph.initializer.extend(t for t in places if t.name not in aside)
        fed = len(self.graph.input)
        self.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in aside.values())
        result = process(self.model)
        keep = [value for value in result.graph.input if value.name not in aside]
        assert len(keep) == fed
        del result.graph.input[:]
        result.graph.input.extend(keep)
        found = {t.name: t for t in result.graph.initializer} | aside
        order = [found[name] for name in before if name in found]
        order += [t for t in result.graph.initializer if t.name not in set(before)]
        del result.graph.initializer[:]
        result.graph.initializer.extend(order)
        self.model = result

    def infer(self, follow: bool = True) -> None:
        """Have onnx say types and shapes of all tensors; ``follow`` sizes through the nodes that compute them.

        Following costs whatever memory the sizes' own sizes ask for: what is known must be folded before.

        Raises:
            ModelError: they contradict each other.
        """
        del self.graph.value_info[:]
        forget_output_shapes(self.graph)
        undecided = any(node.op_type in CONTROL_FLOW for node in self.graph.node)
        self.through(lambda model: _infer_shapes(model, follow, strict=not undecided))

    def drop_unused(self) -> None:
        """Drop the nodes and constants that no output needs."""
        graph = self.graph
        needed = {value.name for value in graph.output}
        kept = []
        for node in reversed(graph.node):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
                needed.update(find_captured(node))
        constants = [tensor for tensor in graph.initializer if tensor.name in needed]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(constants)
        self.aside = {name: tensor for name, tensor in self.aside.items() if name in needed}

    def whole(self) -> onnx.ModelProto:
        """The model with all its weights."""
        for place in self.graph.initializer:
            if place.name in self.aside:
                place.CopyFrom(self.aside[place.name])
        return self.model


def find_captured(node: onnx.NodeProto) -> set[str]:
    """Names that the graphs inside an If, Loop or Scan read, their own tensors included."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names.update(value.name for value in graph.output)
            for inner in graph.node:
                names.update(inner.input)
                names.update(find_captured(inner))
    return names


def _infer_shapes(model: onnx.ModelProto, follow: bool, strict: bool) -> onnx.ModelProto:
    """What onnx infers. Before branches are decided they may contradict each other, and that is no fault."""
    try:
        return shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict, data_prop=follow)
    except Exception as error:
        raise ModelError(
            f"the model's shapes do not fit together: {summarise_error(error)}",
            "check the sizes given with --input; otherwise export the model again",
        ) from error


def summarise_error(error: Exception) -> str:
    """What an exception of onnx says first, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
