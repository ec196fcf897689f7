"""All 255 steps for what is never negative, in a typed graph.

A grid that is symmetric about zero leaves half of its steps to values that a rectified tensor does not have. Where an
engine maker takes uint8, the same range in steps half as wide costs nothing: zero is step 0, so padding stays exact.
"""

from __future__ import annotations

import numpy as np
import onnx

from trt_facefusion.model.graph import read_attribute
from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.grid import round_scale
from trt_facefusion.quantization.lowering.rewriting import GraphEditor

_UINT8_MAX = 255
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt"})
_KEEPING = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather"),
        *("Tile", "Expand", "DepthToSpace", "SpaceToDepth", "MaxPool", "AveragePool", "GlobalAveragePool"),
        *("GlobalMaxPool", "ReduceMean", "ReduceMax"),
    }
)
"""Operators whose results are as little negative as their first input."""
_OF_ALL = frozenset({"Concat", "Add", "Mul", "Max", "Sum"})


def quantise_unsigned(typed: onnx.ModelProto) -> onnx.ModelProto:
    """``typed`` with uint8 grids over the same range for tensors that cannot be negative; the same without any."""
    editor = GraphEditor(typed)
    positive: set[str] = set()
    for node in typed.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in positive:
            _use_all_steps(editor, node)
        elif _gives_no_negatives(editor, node, positive):
            positive.update(node.output)
    return editor.finish() if editor.changed else typed


def _gives_no_negatives(editor: GraphEditor, node: onnx.NodeProto, positive: set[str]) -> bool:
    def is_positive(name: str) -> bool:
        values = editor.constant(name)
        return name in positive if values is None else bool((values >= 0).all())

    match node.op_type:
        case op if op in _NEVER_NEGATIVE:
            deciding: list[str] = []
        case op if op in _KEEPING:
            deciding = list(node.input[:1])
        case op if op in _OF_ALL:
            deciding = list(node.input)
        case "Pad":
            deciding = [*node.input[:1], *node.input[2:3]]
        case "Clip" if len(node.input) > 1 and node.input[1]:
            deciding = list(node.input[1:2])
        case "Resize" if read_attribute(node, "mode", b"nearest") in {b"nearest", b"linear"}:
            deciding = list(node.input[:1])
        case _:
            return False
    return all(is_positive(name) for name in deciding if name)


def _use_all_steps(editor: GraphEditor, quantise: onnx.NodeProto) -> None:
    """Give the quantiser, and what undoes it, the finer grid, unless its own is none of one scale about zero."""
    scale, zero = editor.constant(quantise.input[1]), editor.constant(quantise.input[2])
    if scale is None or scale.ndim or zero is None or zero.dtype != np.int8 or zero.any():
        return
    element_type = editor.constants[quantise.input[1]].data_type
    finer = round_scale(np.float32(scale) * np.float32(INT8_MAX / _UINT8_MAX), element_type)
    grid = (
        editor.add_constant(f"{quantise.output[0]}__unsigned_scale", finer),
        editor.add_constant("zero_point__uint8", np.array(0, np.uint8)),
    )
    for node in (quantise, *editor.readers[quantise.output[0]]):
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[1], changed.input[2] = grid
        editor.replace(node, [changed])
