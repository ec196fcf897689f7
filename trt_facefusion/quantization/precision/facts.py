"""What backends really run in INT8, as far as their logs showed it: where Q/DQ would buy nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from trt_facefusion.model.graph import GraphView, read_attribute


@dataclass(frozen=True)
class KernelFact:
    """Nodes that get no INT8 kernel, or none worth having. ``source`` says how that is known."""

    applies: Callable[[GraphView, onnx.NodeProto], bool]
    reason: str
    source: str


def _is_depthwise(view: GraphView, node: onnx.NodeProto) -> bool:
    # ONNX counts dimensions of a weight [out, in / groups, ...]: one input channel per group is depthwise.
    grouped = node.op_type == "Conv" and read_attribute(node, "group", 1) != 1
    return grouped and (view.shape(node.input[1]) or ())[1:2] == (1,)


TRANSPOSED = KernelFact(
    lambda _, node: node.op_type == "ConvTranspose",
    "transposed convolution: few engine makers run it in INT8, and extreme pixels make it lose more there",
    "build logs of TensorRT-RTX 1.7.1 for SM86: weights quantised on axis 0, on axis 1 and per tensor",
)
"""Not true of all: a backend says so (`Capabilities.transposes_in_int8`)."""

KERNEL_FACTS = (
    TRANSPOSED,
    KernelFact(
        _is_depthwise,
        "depthwise convolution: INT8 pads its channels, and stores more bytes than FP16",
        "build logs and weight memory of TensorRT-RTX 1.7.1 for SM86",
    ),
)


def no_kernel(view: GraphView, name: str, *, transposes: bool = False) -> KernelFact | None:
    """Why a Q/DQ at the node ``name`` would be wasted, or None; ``transposes``: not on transposed convolutions."""
    node = view.nodes[name]
    facts = [fact for fact in KERNEL_FACTS if fact is not TRANSPOSED or not transposes]
    return next((fact for fact in facts if fact.applies(view, node)), None)
