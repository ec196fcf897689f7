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


TRANSPOSED = "transposed convolution: no engine maker at hand runs it in INT8"
"""A reason as plans hold it: text that is stored stays as it is."""

KERNEL_FACTS = (
    KernelFact(
        lambda _, node: node.op_type == "ConvTranspose",
        TRANSPOSED,
        "build logs of TensorRT-RTX 1.7.1 for SM86: weights quantised on axis 0, on axis 1 and per tensor",
    ),
    KernelFact(
        _is_depthwise,
        "depthwise convolution: INT8 pads its channels, and stores more bytes than FP16",
        "build logs and weight memory of TensorRT-RTX 1.7.1 for SM86",
    ),
)


def no_kernel(view: GraphView, name: str) -> KernelFact | None:
    """Why a Q/DQ at the node ``name`` would be wasted on every backend at hand, or None."""
    node = view.nodes[name]
    return next((fact for fact in KERNEL_FACTS if fact.applies(view, node)), None)
