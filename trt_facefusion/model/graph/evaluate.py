"""Compute one node of known inputs, in onnxruntime itself: whatever its opset, the result is what the file means."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from trt_facefusion.model.graph.result_sizes import describe_array, infer_result_sizes
from trt_facefusion.model.messages import count_element_bits
from trt_facefusion.model.sessions import make_session_options, open_session
from trt_facefusion.types import Array

MOST_MACS = 10**10
"""Multiplications of one node; what needs more is left to the engine maker."""

SELECTING = frozenset({
    "Cast", "Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "Pad", "Reshape", "ReverseSequence", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
})  # fmt: skip
"""Operators that only move values."""

ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Clip", "Cos", "Div",
    "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log",
    "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid",
    "Sign", "Sin", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Where", "Xor",
})  # fmt: skip
"""Operators that compute each value of the result from values at the same place."""

_OTHERS = frozenset({
    "AffineGrid", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "CenterCropPad", "Col2Im",
    "ConstantOfShape", "Conv", "ConvTranspose", "CumSum", "Elu", "EyeLike", "Gemm", "GlobalAveragePool",
    "GridSample", "HardSigmoid", "HardSwish", "InstanceNormalization", "LayerNormalization", "LeakyRelu",
    "LogSoftmax", "MatMul", "MaxPool", "NonZero", "OneHot", "PRelu", "Range", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "Resize", "Scatter", "Shape", "Size", "Softmax", "Softplus", "TopK", "Unique", "Upsample",
    "Gelu",
})  # fmt: skip
FOLDABLE = SELECTING | ELEMENTWISE | _OTHERS
"""What is computed ahead: no text, no random numbers, no control flow, and nothing whose cost its sizes do not tell."""

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
_FOREIGN = 2
"""numpy's `isbuiltin` of types that others made for it."""
_BOUNDED_BY_INPUTS = frozenset({"NonZero", "Unique", "Compress"})


def count_result_bytes(node: onnx.NodeProto, inputs: Mapping[str, Array], opset: int) -> int | None:
    """Bytes of the results, told before they are computed; None where that cannot be told."""
    if node.op_type in _BOUNDED_BY_INPUTS:
        return sum(value.size * 8 * max(value.ndim, 1) for value in inputs.values())
    found = infer_result_sizes(node, {name: describe_array(value) for name, value in inputs.items()}, inputs, opset)
    total = 0
    for name in filter(None, node.output):
        kind, sizes = found.get(name, (0, None))
        if sizes is None or None in sizes or not count_element_bits(kind):
            return None
        total += math.prod(size or 0 for size in sizes) * count_element_bits(kind) // 8
    return total


def bound_macs(node: onnx.NodeProto, inputs: Mapping[str, Array], result: int) -> int:
    """Multiplications that the node costs at most, from the bytes of its result."""
    if node.op_type not in _PRODUCTS:
        return 0
    second = inputs[node.input[1]]
    per_value = math.prod(second.shape[1:]) if "Conv" in node.op_type else max(second.shape[-2:], default=1)
    return result // 4 * per_value


def evaluate(node: onnx.NodeProto, inputs: Mapping[str, Array], opset: int) -> list[Array] | None:
    """The node's named results; None where onnxruntime has no kernel for it, or fails."""
    if node.op_type == "Cast" and inputs[node.input[0]].dtype.isbuiltin == _FOREIGN:
        return _widen(node, inputs[node.input[0]])
    options = make_session_options(threads=1)
    options.graph_optimization_level = _find_unoptimised_level()
    names = [name for name in node.output if name]
    try:
        session = open_session(_wrap_node(node, inputs, opset), options)
        results = session.run(names, dict(inputs))
    except Exception:  # onnxruntime's exceptions have no common base; the engine maker computes it instead
        return None
    return [np.asarray(r) for r in results] if all(isinstance(r, np.ndarray | np.generic) for r in results) else None


def _widen(node: onnx.NodeProto, value: Array) -> list[Array] | None:
    """FP8 and INT4 in FP32, which holds them all; onnxruntime takes neither from numpy."""
    to = next((a.i for a in node.attribute if a.name == "to"), 0)
    return [value.astype(np.float32)] if to == TensorProto.FLOAT else None


def _find_unoptimised_level() -> object:
    import onnxruntime as ort

    return ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def _wrap_node(node: onnx.NodeProto, inputs: Mapping[str, Array], opset: int) -> onnx.ModelProto:
    """A model of this one node."""
    fed = [helper.make_tensor_value_info(name, *describe_array(value)) for name, value in inputs.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "node", fed, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
