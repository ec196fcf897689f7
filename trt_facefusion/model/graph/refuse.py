"""What cannot be prepared, told before any work, by the node's name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export.structure import MOST_NODES, MOST_RANK
from trt_facefusion.model.messages import count_element_bits, iterate_nodes

MOST_BYTES = 8 << 30
"""Bytes of one tensor, for one face."""

_QUANTISED = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "MatMulNBits",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention", "QGemm", "DynamicQuantizeLSTM",
    "QEmbedLayerNormalization", "MatMulBnb4", "MatMulFpQ4", "ConvTransposeInteger",
})  # fmt: skip
_MOST_SIZES = 1_000_000
_LISTS = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence")
_TEXT = ("String", "RegexFullMatch", "TfIdfVectorizer")
_STANDARD = frozenset({"", "ai.onnx"})


def refuse_operators(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for the first node that no generator in FP32 has."""
    for node in iterate_nodes(graph.node):
        name = f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
        if node.op_type in _QUANTISED or node.op_type.startswith(("QLinear", "DynamicQuantize")):
            raise ModelError(
                f"the model is quantised already ({name}): INT8 is chosen and proven from FP32",
                "give the FP32 model that it was made from",
            )
        if node.domain not in _STANDARD:
            own = node.domain.startswith("com.microsoft")
            raise ModelError(
                f"the operator {name} belongs to {node.domain!r}, not to standard ONNX",
                "give the file as it was before onnxruntime optimised it"
                if own
                else "export the model with standard ONNX operators",
            )
        if node.op_type.startswith(_LISTS):
            raise ModelError(
                f"the operator {name} makes or reads a list of tensors, which no engine can hold",
                "export the model without lists: torch.onnx.export(..., dynamo=True) unrolls them",
            )
        if node.op_type.startswith(_TEXT):
            raise ModelError(f"the operator {name} works on text", "a generator needs none: export it without")


def refuse_values(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for an input or output that is no tensor."""
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value_info in values:
            held = value_info.type.WhichOneof("value")
            if held not in {None, "tensor_type"}:
                what = held.removesuffix("_type").replace("_", " ")
                raise ModelError(
                    f"the model's {kind} {value_info.name!r} is no tensor, but of the kind {what}",
                    "export the model so that its inputs and outputs are tensors",
                )


_FOLLOWED = frozenset({"Add", "Cast", "Concat", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze"})
"""Operators through which onnx's inference follows the values of sizes."""


def refuse_long_sizes(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for a Concat of sizes that doubles and doubles: onnx's inference would follow every value."""
    integers = {TensorProto.INT64, TensorProto.INT32}
    lengths = {t.name: math.prod(t.dims) for t in graph.initializer if t.data_type in integers}
    most = _MOST_SIZES + 2 * max(lengths.values(), default=0)
    for node in graph.node:
        length = _length_of_sizes(node, lengths)
        if length > most:
            raise ModelError(
                f"{node.op_type} {node.name or node.output[0]!r} makes a list of {length} sizes",
                "no network needs that: export the model again",
            )
        lengths |= dict.fromkeys(node.output, length)


def _length_of_sizes(node: onnx.NodeProto, lengths: Mapping[str, int]) -> int:
    """How many sizes ``node`` makes; 0 where onnx follows none, as in pictures."""
    if node.op_type == "Shape":
        return MOST_RANK
    parts = [lengths.get(name, 0) for name in node.input]
    if node.op_type not in _FOLLOWED or not parts:
        return 0
    if node.op_type == "Gather" and not parts[0]:  # a float table, whatever the length of its indices
        return 0
    return sum(parts) if node.op_type == "Concat" else max(parts)


def require_few_nodes(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for a graph that would keep every later step busy for hours."""
    count = sum(1 for _ in iterate_nodes(graph.node))
    if count > MOST_NODES:
        raise ModelError(
            f"the model has {count} nodes, at most {MOST_NODES} are read",
            "a generator has some thousands: export it without unrolled loops",
        )


def require_shapes(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for the first tensor whose type or rank is not known, or that no memory holds."""
    typed = {value_info.name: value_info.type.tensor_type for value_info in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for name in filter(None, node.output):
            description = f"{name!r}, made by {node.op_type} {node.name!r}"
            if name not in typed or not typed[name].elem_type or not typed[name].HasField("shape"):
                raise ModelError(
                    f"the type or shape of {description}, is not known",
                    "export the model with standard ONNX operators and fixed sizes",
                )
            sizes = [d.dim_value if d.HasField("dim_value") else 1 for d in typed[name].shape.dim]
            needed = math.prod(sizes) * count_element_bits(typed[name].elem_type) // 8
            if min(sizes, default=0) < 0 or needed > MOST_BYTES:
                raise ModelError(
                    f"the tensor {description}, would take {needed / 1e9:.3g} GB for one face",
                    "check the sizes given with --input, and the model",
                )
