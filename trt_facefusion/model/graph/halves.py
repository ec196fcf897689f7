"""Which operators compute in FP16 at all, and which of their inputs may be FP16: read from ONNX's own definitions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import onnx
from onnx import TensorProto, defs

from trt_facefusion.model.graph.view import FLOATS, GraphView

_HALF = "tensor(float16)"
# Their definition would allow FP16, but engine makers want FP32: scales, sizes and the region of interest of a picture.
_WANT_FP32 = frozenset({("Resize", 1), ("Resize", 2), ("Upsample", 1)})


def takes_half(view: GraphView, node: onnx.NodeProto, index: int) -> bool:
    """Whether input ``index`` of ``node`` may be FP16 where the node computes in FP16."""
    if (node.op_type, index) in _WANT_FP32:
        return False
    schema = _find_schema(node.op_type, node.domain, _find_opset(view, node.domain))
    return schema is not None and bool(schema.inputs) and _HALF in _select_formal(schema.inputs, index).types


def holds_half(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether ``node`` can compute in FP16: all of its float results may be FP16, and what shares their type, too.

    False for operators without a definition (of other domains), sequences, and results with a type of their own beside
    the first (the statistics of a normalisation).
    """
    schema = _find_schema(node.op_type, node.domain, _find_opset(view, node.domain))
    if schema is None or any(not view.element_type(name) for name in (*node.input, *node.output) if name):
        return False
    floats = [i for i, name in enumerate(node.output) if name and view.element_type(name) in FLOATS]
    if not floats:
        return True
    results = [_select_formal(schema.outputs, index) for index in floats]
    if any(_HALF not in formal.types or formal.type_str != results[0].type_str for formal in results):
        return False
    shared = {formal.type_str for formal in results}
    read = [_select_formal(schema.inputs, i) for i, name in enumerate(node.input) if name and view.is_float(name)]
    return all(_HALF in formal.types for formal in read if formal.type_str in shared)


def makes_indices(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether ``node`` rounds floats to integers: FP16 knows no odd numbers above 2048."""
    made = view.element_type(node.output[0])
    integers = made not in FLOATS and made not in {TensorProto.DOUBLE, TensorProto.BOOL, 0}
    return node.op_type == "Cast" and integers and view.is_float(node.input[0])


def _find_opset(view: GraphView, domain: str) -> int:
    names = {"", "ai.onnx"} if domain in {"", "ai.onnx"} else {domain}
    return next((entry.version for entry in view.model.opset_import if entry.domain in names), 0)


@lru_cache(maxsize=512)
def _find_schema(op_type: str, domain: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(op_type, opset, "" if domain == "ai.onnx" else domain)
    except defs.SchemaError:
        return None


def _select_formal(parameters: Sequence[defs.OpSchema.FormalParameter], index: int) -> defs.OpSchema.FormalParameter:
    return parameters[min(index, len(parameters) - 1)]
