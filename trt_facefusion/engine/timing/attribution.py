"""Time of kernels -> time of the nodes that a plan decides on: what a layer costs, and so what it would gain.

A kernel names the ONNX nodes that it was made of. Its time is shared

* of a kernel that multiplies, among its layers by their multiplications: what is fused into it costs nothing more;
* of any other, evenly among the planned nodes that it names and the planned nodes that its glue feeds. Glue is what
  lowering put in (quantisers, casts, padding, scales of channels): it is there for the layer behind it.

A kernel that names no node (TensorRT's own transposes) counts as made of the nodes of the kernels that read it. What
feeds no planned node belongs to the ones in front of it (the cast at the network's end), and what belongs to none to
`NOBODY`. Nothing is lost: the times sum up to those of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from trt_facefusion.engine.timing.roofline import EnginePrediction, KernelPrediction
from trt_facefusion.model.graph import GraphView

NOBODY = ""
"""Stands for time that no planned node is charged for."""


@dataclass(frozen=True)
class PlannedGraph:
    """The nodes of a typed graph, and which of them a plan decides on.

    Attributes:
        macs: the planned nodes with their multiplications for one sample, 0 where they have none.
        readers: every node with those that read its results, glue included.
    """

    macs: Mapping[str, int]
    readers: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, typed: GraphView, macs: Mapping[str, int]) -> PlannedGraph:
        """The graph that an engine was built from, and the ``macs`` of the nodes in its plan."""
        readers = {
            node.name: tuple(dict.fromkeys(r.name for output in node.output for r in typed.consumers.get(output, ())))
            for node in typed.model.graph.node
        }
        return cls(macs, readers)

    @cached_property
    def writers(self) -> Mapping[str, tuple[str, ...]]:
        """Every node with those whose results it reads."""
        writers: dict[str, list[str]] = {}
        for node, readers in self.readers.items():
            for reader in readers:
                writers.setdefault(reader, []).append(node)
        return {node: tuple(names) for node, names in writers.items()}

    @property
    def layers(self) -> tuple[str, ...]:
        """Planned nodes that multiply."""
        return tuple(node for node, macs in self.macs.items() if macs > 0)


def attribute_time(prediction: EnginePrediction, graph: PlannedGraph) -> dict[str, float]:
    """Milliseconds of every planned node that a kernel is charged to, and of `NOBODY` where something is left."""
    times: dict[str, float] = {}
    nodes = _name_nodes(prediction)
    for number, kernel in enumerate(prediction.kernels):
        if kernel.time_ms > 0:
            for node, part in _share_kernel(kernel, nodes[number], graph).items():
                times[node] = times.get(node, 0.0) + part * kernel.time_ms
    return times


def collect_layers(times: Mapping[str, float], graph: PlannedGraph) -> dict[str, float]:
    """``times`` of planned nodes, gathered at the layers that multiply: of all layers, also those that cost nothing.

    What stands between layers (activations, normalisations, additions) is charged to the layers in front of it, and
    where there are none to those behind it.
    """
    layers = frozenset(graph.layers)
    gathered = dict.fromkeys(graph.layers, 0.0)
    for node, time_ms in times.items():
        owners = [node] if node in layers else _walk([node], graph.writers, layers)
        owners = owners or _walk([node], graph.readers, layers) or [NOBODY]
        for owner in owners:
            gathered[owner] = gathered.get(owner, 0.0) + time_ms / len(owners)
    return gathered


def _name_nodes(prediction: EnginePrediction) -> list[tuple[str, ...]]:
    """The nodes of every kernel; of one that names none, those of the kernels that read what it writes."""
    kernels = [predicted.kernel for predicted in prediction.kernels]
    nodes = [kernel.nodes for kernel in kernels]
    readers: dict[str, list[int]] = {}
    for number, kernel in enumerate(kernels):
        for tensor in kernel.inputs:
            readers.setdefault(tensor.name, []).append(number)
    for number, kernel in reversed(list(enumerate(kernels))):
        if not nodes[number]:
            behind = (reader for tensor in kernel.outputs for reader in readers.get(tensor.name, ()) if reader > number)
            nodes[number] = tuple(dict.fromkeys(node for reader in behind for node in nodes[reader]))
    return nodes


def _share_kernel(kernel: KernelPrediction, nodes: tuple[str, ...], graph: PlannedGraph) -> dict[str, float]:
    """The part of the time of each node, for a kernel made of ``nodes``; the parts sum up to 1."""
    named = [node for node in dict.fromkeys(nodes) if node in graph.macs]
    total = sum(graph.macs[node] for node in named)
    if kernel.work.macs and total:
        return {node: graph.macs[node] / total for node in named if graph.macs[node]}
    glue = [node for node in nodes if node not in graph.macs]
    owners = list(dict.fromkeys([*named, *_walk(glue, graph.readers, graph.macs.keys())]))
    owners = owners or _walk(glue, graph.writers, graph.macs.keys()) or [NOBODY]
    return dict.fromkeys(owners, 1 / len(owners))


def _walk(start: Iterable[str], edges: Mapping[str, tuple[str, ...]], goals: Iterable[str]) -> list[str]:
    """The nearest of ``goals`` on every way along ``edges``, in the order in which they are met."""
    targets, seen, queue = frozenset(goals), set(start), list(start)
    reached: dict[str, None] = {}
    while queue:
        for node in edges.get(queue.pop(0), ()):
            if node in targets:
                reached[node] = None
            elif node not in seen:
                seen.add(node)
                queue.append(node)
    return list(reached)
