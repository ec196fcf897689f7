"""Arithmetic that says how large tensors are, or which elements are taken, rather than what is in a picture.

It is often done in floats (`floor(size * 0.55)`), which must stay exact: FP16 makes 109 of 110.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

ONLY_THE_SHAPE = frozenset({"Shape", "Size"})
"""Operators that read a tensor's shape and none of its values."""

_SIZES: dict[str, frozenset[int]] = {
    "AffineGrid": frozenset({1}),
    "CenterCropPad": frozenset({1}),
    "ConstantOfShape": frozenset({0}),
    "CumSum": frozenset({1}),
    "Expand": frozenset({1}),
    "OneHot": frozenset({1}),
    "Pad": frozenset({1, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Trilu": frozenset({1}),
    "Unsqueeze": frozenset({1}),
    "Upsample": frozenset({1}),
}
"""The inputs of operators that hold sizes, axes or positions."""

_INDICES: dict[str, frozenset[int]] = {
    "Gather": frozenset({1}),
    "GatherElements": frozenset({1}),
    "GatherND": frozenset({1}),
    "ScatterElements": frozenset({1}),
    "ScatterND": frozenset({1}),
}


def find_size_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes whose results end as sizes, or as indices that no input of the graph has a say in."""
    producer = {name: node for node in graph.node for name in node.output if name}
    alive = _find_alive(graph)
    frontier: list[str] = []
    for node in graph.node:
        sizes, indices = _list_size_inputs(node), _INDICES.get(node.op_type, frozenset())
        frontier += [name for position, name in enumerate(node.input) if position in sizes]
        frontier += [n for position, n in enumerate(node.input) if position in indices and n not in alive]
    found: set[str] = set()
    while frontier:
        maker = producer.get(frontier.pop())
        if maker is None or maker.name in found or maker.op_type in ONLY_THE_SHAPE:
            continue
        found.add(maker.name)
        frontier.extend(maker.input)
    return found


def _list_size_inputs(node: onnx.NodeProto) -> Iterable[int]:
    if node.op_type.startswith("Reduce"):
        return (1,)
    return _SIZES.get(node.op_type, frozenset())


def _find_alive(graph: onnx.GraphProto) -> set[str]:
    """Tensors that depend on the values, not only the sizes, of what is fed."""
    alive = {value.name for value in graph.input}
    for node in graph.node:
        if node.op_type not in ONLY_THE_SHAPE and not alive.isdisjoint(node.input):
            alive.update(name for name in node.output if name)
    return alive
