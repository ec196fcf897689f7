"""Multiply-accumulate operations of each node, for a batch of one."""

from __future__ import annotations

import math

import onnx

from trt_facefusion.graph.view import GraphView


def node_macs(view: GraphView, node: onnx.NodeProto) -> int:
    """MACs of a convolution, transposed convolution, linear layer or matrix product; 0 for every other node."""
    if node.op_type == "Conv":
        weight = view.shape(node.input[1]) or ()
        return view.per_sample(node.output[0]) * math.prod(int(size) for size in weight[1:])
    if node.op_type == "ConvTranspose":
        weight = view.shape(node.input[1]) or ()
        return view.per_sample(node.input[0]) * math.prod(int(size) for size in weight[1:])
    if node.op_type in {"Gemm", "MatMul"}:
        inner = (view.shape(node.input[0]) or ("?",))[-1]
        return view.per_sample(node.output[0]) * (inner if isinstance(inner, int) else 0)
    return 0


def macs(view: GraphView) -> dict[str, int]:
    """MACs by node name, of the nodes that have any."""
    counts = {node.name: node_macs(view, node) for node in view.model.graph.node}
    return {name: count for name, count in counts.items() if count}
