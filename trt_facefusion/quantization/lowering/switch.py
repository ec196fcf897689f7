"""A model whose precisions are inputs: one session measures every plan of a search.

Every candidate becomes an ``If`` whose branches are the node as the plan lowers it, with its quantisers, and the node
as it was. The branch that is not taken costs nothing, and weights stay constants, so that they are packed only once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.messages import strip_weights
from trt_facefusion.types import Array

SWITCHES = "precision_switches"
"""Input of a switched model: bool [G], one for each group; True takes the lowered nodes."""


def add_switches(view: GraphView, lowered: onnx.ModelProto, groups: Sequence[Sequence[str]]) -> onnx.ModelProto:
    """``view``'s model with the nodes of ``groups`` as they are or as they are in ``lowered``.

    ``lowered`` is the same model with all of them lowered, computing in FP32 elsewhere (`lower` with ``base`` FP32).
    Where all nodes of a group are switched together, the result computes exactly what lowering that plan does.
    """
    group_of = {name: index for index, names in enumerate(groups) for name in names}
    branches = _Branches(view, lowered)
    result = strip_weights(view.model, 0)
    del result.graph.node[:], result.graph.initializer[:]
    nodes = result.graph.node
    nodes.extend(_selector(index) for index in range(len(groups)))
    for node in view.model.graph.node:
        if node.name not in group_of:
            nodes.append(node)
            continue
        # Put in at once, one branch at a time: the weights of all branches take several times the model's memory.
        made = nodes.add()
        flag = _flag(group_of[node.name])
        made.CopyFrom(helper.make_node("If", [flag], list(node.output), node.name))
        made.attribute.append(helper.make_attribute("then_branch", branches.lowered(node.name)))
        made.attribute.append(helper.make_attribute("else_branch", branches.original(node)))
    result.graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, [len(groups)]))
    indices = [numpy_helper.from_array(np.array(i, np.int64), f"{_flag(i)}__index") for i in range(len(groups))]
    result.graph.initializer.extend([*_used(result, view), *indices])
    return result


def _flag(index: int) -> str:
    return f"{SWITCHES}__{index}"


def _selector(index: int) -> onnx.NodeProto:
    return helper.make_node("Gather", [SWITCHES, f"{_flag(index)}__index"], [_flag(index)], name=_flag(index))


def _used(result: onnx.ModelProto, view: GraphView) -> list[onnx.TensorProto]:
    """The constants that nodes outside of branches read."""
    read = {name for node in result.graph.node for name in node.input}
    return [tensor for tensor in view.model.graph.initializer if tensor.name in read]


class _Branches:
    """Makes the subgraphs."""

    def __init__(self, view: GraphView, lowered: onnx.ModelProto) -> None:
        self.view = view
        self.nodes = {node.name: node for node in lowered.graph.node}
        self.producer = {name: node for node in lowered.graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in lowered.graph.initializer}

    def original(self, node: onnx.NodeProto) -> onnx.GraphProto:
        weights = [self.view.constant(name) for name in node.input if name and self.view.is_constant(name)]
        names = [name for name in node.input if name and self.view.is_constant(name)]
        return self._graph([node], dict(zip(names, weights, strict=True)), node, "as_it_was")

    def lowered(self, name: str) -> onnx.GraphProto:
        node = self.nodes[name]
        chain: dict[str, onnx.NodeProto] = {}
        constants: dict[str, Array] = {}
        self._collect(node, chain, constants)
        return self._graph([*chain.values(), node], constants, node, "lowered")

    def _collect(self, node: onnx.NodeProto, chain: dict[str, onnx.NodeProto], constants: dict[str, Array]) -> None:
        """What lowering put between the tensors of the model and ``node``, in order."""
        for name in node.input:
            if name in self.constants:
                constants[name] = numpy_helper.to_array(self.constants[name])
                continue
            maker = self.producer.get(name)
            if maker is None or maker.name in self.view.nodes or maker.name in chain:
                continue
            if maker.op_type == "DequantizeLinear" and all(i in self.constants for i in maker.input):
                constants[name] = self._dequantised(maker)
                continue
            self._collect(maker, chain, constants)
            chain[maker.name] = maker

    def _dequantised(self, node: onnx.NodeProto) -> Array:
        values, scale = (numpy_helper.to_array(self.constants[name]) for name in node.input[:2])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * values.ndim
        shape[axis] = -1
        return values.astype(np.float32) * scale.astype(np.float32).reshape(shape if scale.ndim else ())

    def _graph(
        self, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], node: onnx.NodeProto, suffix: str
    ) -> onnx.GraphProto:
        """A branch: what it makes is renamed, because ONNX wants names to be unique over all subgraphs."""
        made = {name for inner in nodes for name in inner.output} | set(constants)
        rename = {name: f"{node.name}__{suffix}__{name}" for name in made}
        copies = []
        for inner in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(inner)
            copy.name = f"{node.name}__{suffix}__{inner.name}"
            copy.input[:] = [rename.get(name, name) for name in inner.input]
            copy.output[:] = [rename[name] for name in inner.output]
            copies.append(copy)
        weights = [numpy_helper.from_array(np.asarray(v, order="C"), rename[name]) for name, v in constants.items()]
        outputs = [onnx.ValueInfoProto(name=rename[name]) for name in node.output]
        for value, name in zip(outputs, node.output, strict=True):
            value.type.tensor_type.elem_type = self.view.element_type(name)
        return helper.make_graph(copies, f"{node.name}__{suffix}", [], outputs, weights)
