"""Multiply-accumulate operations of each node, for a batch of one."""

from __future__ import annotations

import math

import onnx

from trt_facefusion.model.graph.view import GraphView


def count_node_macs(view: GraphView, node: onnx.NodeProto) -> int:
    """MACs of a convolution, transposed convolution, linear layer or matrix product; 0 for every other node."""
    if node.op_type in {"Conv", "ConvTranspose"}:
        kernel = (view.shape(node.input[1]) or ("?",))[1:]
        # Every output of a convolution gathers one kernel; every input of a transposed one scatters one.
        tensor = node.output[0] if node.op_type == "Conv" else node.input[0]
        return view.per_sample(tensor) * math.prod(size if isinstance(size, int) else 0 for size in kernel)
    if node.op_type in {"Gemm", "MatMul"}:
        inner = (view.shape(node.input[0]) or ("?",))[-1]
        return view.per_sample(node.output[0]) * (inner if isinstance(inner, int) else 0)
    return 0


def count_macs(view: GraphView) -> dict[str, int]:
    """MACs by node name, of the nodes that have any."""
    counts = {node.name: count_node_macs(view, node) for node in view.model.graph.node}
    return {name: count for name, count in counts.items() if count}
