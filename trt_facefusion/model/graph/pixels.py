"""Pixels of uint8 are moved about as floats: TensorRT knows uint8 only directly at the border.

``frame -> Transpose -> Cast`` becomes ``frame -> Cast -> Transpose``, and before an output the other way round. FP32
holds all 256 values exactly, so nothing changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from trt_facefusion.model.graph.layout import MOVING_OPERATORS
from trt_facefusion.model.messages import iterate_nested_graphs

_MOVES = MOVING_OPERATORS | {"Slice"}


def move_pixels_as_floats(graph: onnx.GraphProto) -> None:
    """Rewrite what stands between uint8 inputs or outputs and the casts behind or in front of them, in place."""
    for graph_input in graph.input:
        if graph_input.type.tensor_type.elem_type == TensorProto.UINT8:
            _cast_behind_input(graph, graph_input.name)
    for output in graph.output:
        if output.type.tensor_type.elem_type == TensorProto.UINT8:
            _cast_before_output(graph, output.name)


def _cast_behind_input(graph: onnx.GraphProto, name: str) -> None:
    """Cast the input to floats in front of nodes that only move it, where nothing else reads what they make."""
    chain = list(_follow_moves(graph, name))
    moved = {name, *(node.output[0] for node in chain)}
    inner = moved & {output.name for output in graph.output} or not moved.isdisjoint(_list_nested_reads(graph))
    ends = [node for node in graph.node if node.input and node.input[0] in moved - {name} and node not in chain]
    if not chain or inner or any(node.op_type != "Cast" for node in ends):
        return
    wide = f"{name}/float"
    for node in chain:
        if node.input[0] == name:
            node.input[0] = wide
    # Casts read floats now, and say what they become as before.
    graph.node.insert(0, helper.make_node("Cast", [name], [wide], f"{wide}/cast", to=TensorProto.FLOAT))


def _follow_moves(graph: onnx.GraphProto, name: str) -> Iterator[onnx.NodeProto]:
    """The nodes that move ``name``, one after the other."""
    for node in graph.node:
        if node.op_type in _MOVES and node.input[0] == name:
            yield node
            yield from _follow_moves(graph, node.output[0])


def _cast_before_output(graph: onnx.GraphProto, name: str) -> None:
    """Cast to uint8 behind the nodes that only move the picture."""
    producer = {output: node for node in graph.node for output in node.output}
    uses = Counter(i for node in graph.node for i in node.input) + Counter(_list_nested_reads(graph))
    uses.update(output_info.name for output_info in graph.output)
    chain: list[onnx.NodeProto] = []
    node = producer.get(name)
    while node is not None and node.op_type in _MOVES and uses[node.output[0]] == 1:
        chain.append(node)
        node = producer.get(node.input[0])
    if not chain or node is None or node.op_type != "Cast" or uses[node.output[0]] != 1:
        return
    chain[-1].input[0] = node.input[0]
    chain[0].output[0] = f"{name}/float"
    graph.node.remove(node)
    graph.node.append(helper.make_node("Cast", [f"{name}/float"], [name], f"{name}/cast", to=TensorProto.UINT8))


def _list_nested_reads(graph: onnx.GraphProto) -> list[str]:
    """What branches and loops read."""
    names: list[str] = []
    for inner in iterate_nested_graphs(graph.node):
        names += [name for node in inner.node for name in node.input]
        names += [output.name for output in inner.output]
    return names
