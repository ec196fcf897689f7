"""What cannot be prepared, told before any work, by the node's name."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import TensorProto

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export.structure import MOST_NODES, MOST_RANK
from trt_facefusion.model.messages import count_element_bits

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
    for node in _nodes(graph):
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
        for value in values:
            held = value.type.WhichOneof("value")
            if held not in {None, "tensor_type"}:
                what = held.removesuffix("_type").replace("_", " ")
                raise ModelError(
                    f"the model's {kind} {value.name!r} is no tensor, but of the kind {what}",
                    "export the model so that its inputs and outputs are tensors",
                )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def refuse_long_sizes(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for a Concat of sizes that doubles and doubles: onnx's inference would follow every value."""
    whole = {TensorProto.INT64, TensorProto.INT32}
    lengths = {t.name: math.prod(t.dims) for t in graph.initializer if t.data_type in whole}
    most = _MOST_SIZES + 2 * max(lengths.values(), default=0)
    for node in graph.node:
        if node.op_type == "Shape":
            length = MOST_RANK
        else:
            parts = [lengths.get(name, 0) for name in node.input]
            length = sum(parts) if node.op_type == "Concat" else max(parts, default=0)
        if length > most:
            raise ModelError(
                f"{node.op_type} {node.name or node.output[0]!r} makes a list of {length} sizes",
                "no network needs that: export the model again",
            )
        lengths |= dict.fromkeys(node.output, length)


def require_few_nodes(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for a graph that would keep every later step busy for hours."""
    count = sum(1 for _ in _nodes(graph))
    if count > MOST_NODES:
        raise ModelError(
            f"the model has {count} nodes, at most {MOST_NODES} are read",
            "a generator has some thousands: export it without unrolled loops",
        )


def require_shapes(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` for the first tensor whose type or rank is not known, or that no memory holds."""
    typed = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for name in filter(None, node.output):
            made = f"{name!r}, made by {node.op_type} {node.name!r}"
            if name not in typed or not typed[name].elem_type or not typed[name].HasField("shape"):
                raise ModelError(
                    f"the type or shape of {made}, is not known",
                    "export the model with standard ONNX operators and fixed sizes",
                )
            sizes = [d.dim_value if d.HasField("dim_value") else 1 for d in typed[name].shape.dim]
            needed = math.prod(sizes) * count_element_bits(typed[name].elem_type) // 8
            if min(sizes, default=0) < 0 or needed > MOST_BYTES:
                raise ModelError(
                    f"the tensor {made}, would take {needed / 1e9:.3g} GB for one face",
                    "check the sizes given with --input, and the model",
                )
