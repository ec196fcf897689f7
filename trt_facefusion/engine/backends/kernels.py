"""Holds a plan against the kernels that really came out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.types import Precision


@dataclass(frozen=True)
class NodeKernel:
    """What became of one planned INT8 node. ``kernel`` is empty when no kernel names the node."""

    node: str
    op_type: str
    kernel: str
    type: str
    dtypes: str
    is_int8: bool


@dataclass(frozen=True)
class Int8Coverage:
    """How many planned INT8 nodes really became INT8 kernels; ``missing`` names the others, in the plan's order."""

    planned: int
    real: int
    missing: tuple[str, ...]
    details: tuple[NodeKernel, ...]


def find_int8_coverage(
    planned: Mapping[str, str], kernels: Sequence[Kernel], math_types: Collection[str]
) -> Int8Coverage:
    """Compare the nodes that a plan wants in INT8 (name -> operator type) with the kernels of a built engine.

    ``math_types`` are the kernel types that multiply and add, of the backend that built it.

    A node counts as INT8 only if a kernel that multiplies and adds names it, and *every* such kernel works on 8-bit
    factors. Kernels that pad, scale or round never count. With no kernels at all, everything is missing.
    """
    by_node: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        for node in kernel.nodes:
            by_node.setdefault(node, []).append(kernel)
    details = tuple(_judge(node, op_type, by_node.get(node, []), math_types) for node, op_type in planned.items())
    missing = tuple(detail.node for detail in details if not detail.is_int8)
    return Int8Coverage(len(details), len(details) - len(missing), missing, details)


def find_lowered_nodes(
    precisions: Mapping[str, Precision], kernels: Sequence[Kernel], *, typed: bool = False
) -> dict[str, str]:
    """Nodes that run in less than their plan says -> the kernel and its data types.

    A node lost its precision when one of the kernels that name it works on nothing as wide: no FP32 tensor for an FP32
    node, nothing but 8-bit tensors for an FP16 node. What several fused nodes share is judged by the kernel's edges, so
    a wide node between narrow ones inside one kernel counts as kept if one edge is wide. In a ``typed`` build casts and
    quantisers are nodes, too: a kernel that they are fused into has narrow edges and a wide inside, and says nothing.
    """
    wide = {
        Precision.FP32: frozenset({"fp32"}),
        Precision.FP16: frozenset({"fp16", "bf16", "fp32"}),
    }
    lost: dict[str, str] = {}
    for kernel in kernels:
        dtypes = {tensor.dtype for tensor in (*kernel.inputs, *kernel.outputs)}
        if not dtypes & {"fp32", "fp16", "bf16", "int8", "uint8", "fp8"}:
            continue  # shapes and indices
        if typed and not all(node in precisions for node in kernel.nodes):
            continue
        for node in kernel.nodes:
            needed = wide.get(precisions.get(node, Precision.INT8))
            if needed is not None and not dtypes & needed:
                lost.setdefault(node, f"{kernel.name}: {kernel.dtypes}")
    return lost


def _judge(node: str, op_type: str, kernels: Sequence[Kernel], math_types: Collection[str]) -> NodeKernel:
    if not kernels:
        return NodeKernel(node, op_type, "", "", "", False)
    math = [kernel for kernel in kernels if kernel.is_math(math_types)]
    # The least good kernel speaks for the node.
    shown = min(math, key=lambda kernel: kernel.is_int8_math(math_types)) if math else kernels[-1]
    is_int8 = bool(math) and shown.is_int8_math(math_types)
    return NodeKernel(node, op_type, shown.name, shown.type, shown.dtypes, is_int8)
