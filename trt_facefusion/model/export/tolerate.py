"""What onnxruntime does not mind, though onnx's checker does: order, names and notes on which no result depends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush

import onnx
from onnx import TensorProto

from trt_facefusion.errors import ModelError

_OLDEST_IR = 4
"""The first that lets constants be no inputs; onnxruntime reads files of older ones in the same way."""


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put every node of ``graph`` behind those whose results it reads, in place; a graph in order stays as it is.

    Raises:
        ModelError: some nodes wait for each other.
    """
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    reads = [{maker[name] for name in _collect_reads(node) if name in maker} for node in graph.node]
    if all(not found or max(found) < index for index, found in enumerate(reads)):
        return
    order = _sort_indices(reads)
    if len(order) < len(reads):
        left = [graph.node[index] for index in sorted(set(range(len(reads))) - set(order))]
        names = ", ".join(f"{node.op_type} {node.name or next(iter(node.output), '')!r}" for node in left[:3])
        raise ModelError(f"the nodes {names} wait for each other's results", "export the model again")
    nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _sort_indices(reads: Sequence[set[int]]) -> list[int]:
    """Indices in an order in which each follows those that it reads; those in or behind a cycle are left out."""
    readers: dict[int, list[int]] = defaultdict(list)
    for index, found in enumerate(reads):
        for other in found:
            readers[other].append(index)
    missing = [len(found) for found in reads]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, reader)
    return order


def _collect_reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, and what the graphs inside it read from outside (their own results may be among it)."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {name for inner in graph.node for name in inner.output} | {value.name for value in graph.input}
            names |= {name for inner in graph.node for name in _collect_reads(inner)} - own
            names |= {value.name for value in graph.output} - own
    return names


def complete_notes(model: onnx.ModelProto) -> None:
    """Fill in, in place, what the checker wants to be there and nothing depends on."""
    model.ir_version = max(model.ir_version, _OLDEST_IR)
    model.graph.name = model.graph.name or "graph"
    del model.metadata_props[:]
    for value in model.graph.output:
        if value.type.WhichOneof("value") is None:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
