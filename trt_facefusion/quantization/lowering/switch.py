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
    switchable = strip_weights(view.model, 0)
    del switchable.graph.node[:], switchable.graph.initializer[:]
    nodes = switchable.graph.node
    nodes.extend(_make_selector(index) for index in range(len(groups)))
    for node in view.model.graph.node:
        if node.name not in group_of:
            nodes.append(node)
            continue
        # Put in at once, one branch at a time: the weights of all branches take several times the model's memory.
        switch_node = nodes.add()
        flag = _name_flag(group_of[node.name])
        switch_node.CopyFrom(helper.make_node("If", [flag], list(node.output), node.name))
        switch_node.attribute.append(helper.make_attribute("then_branch", branches.make_lowered(node.name)))
        switch_node.attribute.append(helper.make_attribute("else_branch", branches.make_original(node)))
    switchable.graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, [len(groups)]))
    indices = [numpy_helper.from_array(np.array(i, np.int64), f"{_name_flag(i)}__index") for i in range(len(groups))]
    switchable.graph.initializer.extend([*_find_read_constants(switchable, view), *indices])
    return switchable


def _name_flag(index: int) -> str:
    return f"{SWITCHES}__{index}"


def _make_selector(index: int) -> onnx.NodeProto:
    return helper.make_node(
        "Gather", [SWITCHES, f"{_name_flag(index)}__index"], [_name_flag(index)], name=_name_flag(index)
    )


def _find_read_constants(switchable: onnx.ModelProto, view: GraphView) -> list[onnx.TensorProto]:
    """The constants that nodes outside of branches read."""
    read = {name for node in switchable.graph.node for name in node.input}
    return [tensor for tensor in view.model.graph.initializer if tensor.name in read]


class _Branches:
    """Makes the subgraphs."""

    def __init__(self, view: GraphView, lowered: onnx.ModelProto) -> None:
        self.view = view
        self.nodes = {node.name: node for node in lowered.graph.node}
        self.producer = {name: node for node in lowered.graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in lowered.graph.initializer}

    def make_original(self, node: onnx.NodeProto) -> onnx.GraphProto:
        weights = [self.view.constant(name) for name in node.input if name and self.view.is_constant(name)]
        names = [name for name in node.input if name and self.view.is_constant(name)]
        return self._make_branch([node], dict(zip(names, weights, strict=True)), node, "as_it_was")

    def make_lowered(self, name: str) -> onnx.GraphProto:
        node = self.nodes[name]
        chain: dict[str, onnx.NodeProto] = {}
        constants: dict[str, Array] = {}
        self._collect_chain(node, chain, constants)
        return self._make_branch([*chain.values(), node], constants, node, "lowered")

    def _collect_chain(
        self, node: onnx.NodeProto, chain: dict[str, onnx.NodeProto], constants: dict[str, Array]
    ) -> None:
        """What lowering put between the tensors of the model and ``node``, in order."""
        for name in node.input:
            if name in self.constants:
                constants[name] = numpy_helper.to_array(self.constants[name])
                continue
            producer = self.producer.get(name)
            if producer is None or producer.name in self.view.nodes or producer.name in chain:
                continue
            if producer.op_type == "DequantizeLinear" and all(i in self.constants for i in producer.input):
                constants[name] = self._dequantise(producer)
                continue
            self._collect_chain(producer, chain, constants)
            chain[producer.name] = producer

    def _dequantise(self, node: onnx.NodeProto) -> Array:
        values, scale = (numpy_helper.to_array(self.constants[name]) for name in node.input[:2])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * values.ndim
        shape[axis] = -1
        return values.astype(np.float32) * scale.astype(np.float32).reshape(shape if scale.ndim else ())

    def _make_branch(
        self, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], node: onnx.NodeProto, suffix: str
    ) -> onnx.GraphProto:
        """A branch: what it makes is renamed, because ONNX wants names to be unique over all subgraphs."""
        inner_names = {name for inner in nodes for name in inner.output} | set(constants)
        rename = {name: f"{node.name}__{suffix}__{name}" for name in inner_names}
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
        for branch_output, name in zip(outputs, node.output, strict=True):
            branch_output.type.tensor_type.elem_type = self.view.element_type(name)
        return helper.make_graph(copies, f"{node.name}__{suffix}", [], outputs, weights)
