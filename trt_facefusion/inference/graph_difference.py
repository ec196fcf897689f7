"""At which node two runs of a network part: by the tensors that both graphs, or both batches, have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.inference.original import Original, add_outputs
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.segments import list_activations, set_input_shapes
from trt_facefusion.types import Array, Feeds

_BUDGET_BYTES = 256 << 20
"""Values of tensors that are compared at a time, of both graphs together."""
_DIFFERENT = 1e-3
"""Share of a tensor's largest value: above it two graphs compute different things, below it is rounding."""


@dataclass(frozen=True)
class NodeDifference:
    """The first node, in the order of the original graph, whose result is not what it was.

    ``share`` is the largest difference over the largest value; None where the shapes or types differ.
    """

    node: str
    op: str
    tensor: str
    share: float | None

    def __str__(self) -> str:
        how = "in its shape" if self.share is None else f"by {self.share:.2g} of its largest value"
        return f"node {self.node!r} ({self.op}) is the first whose result differs, {how}"


def find_first_difference(original: Original, prepared: onnx.ModelProto, feeds: Feeds) -> NodeDifference | None:
    """The node at which preparing a graph went wrong, found by the tensors that both graphs name.

    None where no common tensor differs: then the difference enters between the last of them and the output.
    """
    shapes = {name: tensor.shape for name, tensor in feeds.items()}
    sizes = list_activations(GraphView(set_input_shapes(prepared, shapes)))
    nodes = {name: node for node in original.loaded.graph.node for name in node.output if name in sizes}
    for group in _split_by_size(list(nodes), sizes):
        with original.open_runner(optimise=False, tapped=group) as runner:
            was = runner.infer(feeds)
        with OnnxRuntimeRunner(add_outputs(prepared, group), optimise=False, ours="the prepared graph") as runner:
            now = runner.infer(feeds)
        for name in group:
            share = _find_largest_share(was[name], now[name])
            if share is None or not share <= _DIFFERENT:
                node = _find_replaced(original.loaded.graph, nodes[name], set(nodes))
                return NodeDifference(node.name or name, node.op_type, name, share)
    return None


def _find_replaced(graph: onnx.GraphProto, node: onnx.NodeProto, common: set[str]) -> onnx.NodeProto:
    """``node``, or what stands in front of it and that preparing has replaced: the first whose result has gone."""
    producer = {name: node for node in graph.node for name in node.output if name}
    replaced: list[onnx.NodeProto] = []
    waiting = [node]
    while waiting:
        for name in waiting.pop().input:
            before = producer.get(name)
            if before is not None and name not in common and before not in replaced and before.op_type != "Constant":
                replaced.append(before)
                waiting.append(before)
    reading_common = (n for n in graph.node if n in replaced and not common.isdisjoint(_compute_inputs(n, producer)))
    return next(reading_common, node)


def _compute_inputs(node: onnx.NodeProto, producer: Mapping[str, onnx.NodeProto]) -> list[str]:
    """What ``node`` reads that other nodes made."""
    return [name for name in node.input if name in producer]


def find_first_mixing(original: Original, alone: Feeds, among: Feeds, sizes: Mapping[str, Sequence[int]]) -> str | None:
    """The first node (in graph order) whose result for the first sample depends on the others of the batch.

    Args:
        original: the network.
        alone: feeds that begin with the sample.
        among: feeds that begin with the same sample and go on with others.
        sizes: the graph's float tensors and their shapes for ``among``.
    """
    nodes = {name: node for node in original.loaded.graph.node for name in node.output if name in sizes}
    for group in _split_by_size(list(nodes), sizes):
        with original.open_runner(optimise=False, tapped=group) as runner:
            first, second = runner.infer(alone), runner.infer(among)
        for name in group:
            a, b = first[name], second[name]
            if not a.ndim or not b.ndim or a.shape[1:] != b.shape[1:]:
                continue  # the batch was folded into another axis: nothing can be said of this one
            share = _find_largest_share(a[:1], b[:1])
            if share is not None and not share <= _DIFFERENT:
                return nodes[name].name or name
    return None


def _split_by_size(names: Sequence[str], sizes: Mapping[str, Sequence[int]]) -> Iterator[list[str]]:
    """Groups of ``names`` whose values of both graphs fit into memory together."""
    group: list[str] = []
    group_bytes = 0
    for name in names:
        both_bytes = 2 * 4 * math.prod(sizes[name])
        if group and group_bytes + both_bytes > _BUDGET_BYTES:
            yield group
            group, group_bytes = [], 0
        group.append(name)
        group_bytes += both_bytes
    if group:
        yield group


def _find_largest_share(was: Array, now: Array) -> float | None:
    """Largest difference over the largest value of ``was``; infinite where one is not finite and the other is."""
    if was.shape != now.shape:
        return None
    a, b = was.astype(np.float64), now.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)[~((a == b) | (np.isnan(a) & np.isnan(b)))]  # equal infinities have no difference
    if not apart.size:
        return 0.0
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) or 1.0
    share = float(apart.max()) / largest
    return share if np.isfinite(share) else float("inf")
