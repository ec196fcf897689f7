"""Sizes of one node's results, from its inputs' sizes and from the values of those that decide them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from trt_facefusion.types import Array

Sizes = tuple[int | None, ...]
"""None stands for a size that is not known."""

DECIDES = 1 << 10
"""Inputs of at most this many bytes may decide sizes, so inference sees their values."""

_TARGETS = {"Reshape": 1, "Resize": 3, "Upsample": 3, "ConstantOfShape": 0}
"""Which input holds the result's sizes."""


def read_sizes(value: onnx.ValueInfoProto) -> Sizes | None:
    """The sizes that a graph notes; None where even the rank is unknown."""
    return _read_type_sizes(value.type)


def _read_type_sizes(kind: onnx.TypeProto) -> Sizes | None:
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.tensor_type.shape.dim)


def infer_result_sizes(
    node: onnx.NodeProto, inputs: Mapping[str, tuple[int, Sizes | None]], values: Mapping[str, Array], opset: int
) -> dict[str, tuple[int, Sizes | None]]:
    """Type and sizes of each result, as onnx infers them; empty where it cannot.

    Args:
        node: a node of a standard operator.
        inputs: type and sizes of each input.
        values: what is known of them; only small ones are looked at.
        opset: the version of the operators.
    """
    types = {name: helper.make_tensor_type_proto(kind, sizes) for name, (kind, sizes) in inputs.items()}
    data = {
        name: numpy_helper.from_array(value, name)
        for name, value in values.items()
        if value.nbytes <= DECIDES and value.dtype != object
    }
    try:
        schema = defs.get_schema(node.op_type, opset, "")
        imports = [helper.make_opsetid("", opset)]
        found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    except Exception:  # onnx raises errors of its own, and KeyError and RuntimeError
        return {}
    return {name: (kind.tensor_type.elem_type, _read_type_sizes(kind)) for name, kind in found.items()}


def read_target_sizes(node: onnx.NodeProto, values: Array, known: Array) -> Sizes | None:
    """The result's sizes where the input that holds them is known in part; None for other operators."""
    place = _TARGETS.get(node.op_type)
    if place is None or values.ndim != 1:
        return None
    return tuple(int(v) if k and v > 0 else None for v, k in zip(values, known, strict=True))


def find_target(node: onnx.NodeProto) -> str:
    """The input that holds the result's sizes, empty where there is none."""
    place = _TARGETS.get(node.op_type, len(node.input))
    return node.input[place] if place < len(node.input) else ""


def describe_array(value: Array) -> tuple[int, Sizes]:
    """Type and sizes of an array, for `infer_result_sizes`."""
    return helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
