"""Nodes of a lowered graph replaced by others, with new constants: what the passes behind the lowering share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trt_facefusion.types import Array


class GraphEditor:
    """A lowered model whose nodes are replaced; `finish` gives the new one. The model itself stays as it is."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producer = {name: node for node in model.graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in model.graph.output}
        self._replacements: dict[str, list[onnx.NodeProto]] = {}

    def constant(self, name: str) -> Array | None:
        """The values of a constant; None where ``name`` is computed."""
        return self.read_constant(name) if name in self.constants else None

    def read_constant(self, name: str) -> Array:
        """The values of what is known to be a constant."""
        return numpy_helper.to_array(self.constants[name])

    def add_constant(self, name: str, values: Array) -> str:
        """A new constant; gives its name."""
        self.constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def find_only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads ``name``; None where there are more, or it is an output of the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def replace(self, node: onnx.NodeProto, by: Sequence[onnx.NodeProto]) -> None:
        """Put ``by`` in the place of ``node``; names of nodes are unique in a lowered graph."""
        self._replacements[node.name] = list(by)

    @property
    def changed(self) -> bool:
        """Whether any node was replaced."""
        return bool(self._replacements)

    def finish(self) -> onnx.ModelProto:
        """The model with all replacements, without nodes and constants that nothing reads any more."""
        nodes = [new for node in self.model.graph.node for new in self._replacements.get(node.name, [node])]
        nodes = _keep_read(nodes, self.outputs)
        read = {name for node in nodes for name in node.input}
        edited = onnx.ModelProto()
        edited.CopyFrom(onnx.ModelProto(ir_version=self.model.ir_version, producer_name=self.model.producer_name))
        edited.opset_import.extend(self.model.opset_import)
        edited.metadata_props.extend(self.model.metadata_props)  # which channels are scaled
        graph = self.model.graph
        constants = [tensor for name, tensor in self.constants.items() if name in read]
        edited.graph.CopyFrom(helper.make_graph(nodes, graph.name, graph.input, graph.output, constants))
        return edited


def make_op(op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A node that is named after its output."""
    return helper.make_node(op_type, inputs, [output], name=f"{output}__node", **attributes)


def _keep_read(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    read = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(name in read for name in node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]
