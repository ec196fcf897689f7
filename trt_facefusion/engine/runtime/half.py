"""Makes ONNX Runtime's CPU round to FP16 where the model says FP16.

The CPU has no FP16 kernels for most operators: ONNX Runtime runs them in FP32 and *drops the rounding between them*, at
every optimisation level. A value of 300,000 between two FP16 operators is infinite on a GPU and harmless here, so a
verification on the CPU would see neither overflow nor rounding. Casts that the model itself holds are kept, though:
this module rewrites a model to FP32 with a pair of casts (to FP16 and back) behind every operator that computes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.messages import LARGE, count_tensor_bytes, strip_weights

# They pass on values that are FP16 already. DequantizeLinear is here because an INT8 kernel multiplies the integers
# themselves: its factors are never rounded to FP16.
_EXACT = frozenset(
    {
        "Concat", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Neg", "Pad", "Relu",
        "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Abs", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip


def round_to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` that computes in FP32 and rounds to FP16 behind every operator with an FP16 result.

    Accumulation inside an operator stays FP32. Inputs and outputs keep their types. TensorRT fuses element-wise
    operators and may skip roundings that are made here, so this is the stricter of the two.

    Raises:
        ModelError: the model has control flow (If, Loop, Scan), or its types cannot be inferred.
    """
    if any(attribute.g.node or attribute.graphs for node in model.graph.node for attribute in node.attribute):
        raise ModelError("FP16 cannot be imitated on the CPU for a model with If, Loop or Scan.", "Verify it on a GPU.")
    halves = _find_half_tensors(model)
    if not halves:
        return model
    rounded = strip_weights(model, LARGE)  # none of them is copied before it is widened
    graph = rounded.graph
    del graph.value_info[:]
    outside = {border_info.name for border_info in (*graph.input, *graph.output)} & halves
    nodes: list[onnx.NodeProto] = [
        helper.make_node(
            "Cast",
            [border_info.name],
            [_name_wide(border_info.name)],
            to=TensorProto.FLOAT,
            name=f"{border_info.name}__widen",
        )
        for border_info in graph.input
        if border_info.name in outside
    ]
    for node in graph.node:
        nodes += _rewrite(node, halves, outside)
    for place, initializer in zip(graph.initializer, model.graph.initializer, strict=True):
        if initializer.data_type == TensorProto.FLOAT16:
            place.CopyFrom(_widen(initializer))
        elif count_tensor_bytes(initializer) >= LARGE:
            place.CopyFrom(initializer)
    del graph.node[:]
    graph.node.extend(nodes)
    return rounded


def _find_half_tensors(model: onnx.ModelProto) -> set[str]:
    try:
        graph = onnx.shape_inference.infer_shapes(strip_weights(model, LARGE)).graph
    except Exception as error:  # onnx's own InferenceError, and others for damaged models
        raise ModelError(f"The model's types cannot be inferred: {error}", "Export the model again.") from error
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if any(name and name not in types for name in node.output):
            raise ModelError(
                f"The type of what {node.op_type} ({node.name!r}) gives is not known.", "Verify this model on a GPU."
            )
    return {name for name, elem_type in types.items() if elem_type == TensorProto.FLOAT16}


def _rewrite(node: onnx.NodeProto, halves: set[str], outside: set[str]) -> list[onnx.NodeProto]:
    """``node`` in FP32, with the casts behind it."""
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for i, name in enumerate(node.input):
        wide.input[i] = _name_wide(name) if name in outside else name
    for attribute in wide.attribute:
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(_widen(attribute.t))
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
    after = []
    for i, name in enumerate(node.output):
        if name not in halves:
            continue
        final = _name_wide(name) if name in outside else name
        if node.op_type in _EXACT and name not in outside:
            continue
        wide.output[i] = f"{name}__exact"
        half = name if name in outside else f"{name}__half"
        after.append(helper.make_node("Cast", [wide.output[i]], [half], to=TensorProto.FLOAT16, name=f"{name}__round"))
        after.append(helper.make_node("Cast", [half], [final], to=TensorProto.FLOAT, name=f"{name}__back"))
    return [wide, *after]


def _name_wide(name: str) -> str:
    return f"{name}__wide"


def _widen(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
