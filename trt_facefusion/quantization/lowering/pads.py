"""Quantisers in front of what pads, in a lowered graph.

A Pad that repeats or mirrors what it pads, or pads with zeros, gives only values that it was given, or 0, which is on
every grid: quantising in front of it is the same as behind it, to the bit. Where a compiler moves integers through a
Pad, that moves a quarter of the bytes, and the quantiser becomes part of what makes the tensor.
"""

from __future__ import annotations

import onnx

from trt_facefusion.model.graph import read_attribute
from trt_facefusion.quantization.lowering.rewriting import GraphEditor

_COPYING = frozenset({b"reflect", b"edge", b"wrap"})


def quantise_before_pads(typed: onnx.ModelProto) -> onnx.ModelProto:
    """``typed`` with Q/DQ in front of each Pad that only they read; the same where there is none."""
    editor = GraphEditor(typed)
    for pad in typed.graph.node:
        if pad.op_type == "Pad" and _commutes(editor, pad):
            _swap(editor, pad)
    return editor.finish() if editor.changed else typed


def _commutes(editor: GraphEditor, pad: onnx.NodeProto) -> bool:
    """Whether ``pad`` gives nothing but values that it reads, and zeros."""
    mode = read_attribute(pad, "mode", b"constant")
    if mode in _COPYING:
        return True
    value = pad.input[2] if len(pad.input) > 2 else ""
    known = editor.constant(value) if value else None
    return mode == b"constant" and (not value or (known is not None and not known.any()))


def _swap(editor: GraphEditor, pad: onnx.NodeProto) -> None:
    quantise = editor.find_only_reader(pad.output[0])
    if quantise is None or quantise.op_type != "QuantizeLinear":
        return
    dequantise = editor.find_only_reader(quantise.output[0])
    scale = editor.constant(quantise.input[1])
    if dequantise is None or dequantise.op_type != "DequantizeLinear" or scale is None or scale.ndim:
        return
    first, second, third = onnx.NodeProto(), onnx.NodeProto(), onnx.NodeProto()
    for copy, node in ((first, quantise), (second, dequantise), (third, pad)):
        copy.CopyFrom(node)
    first.input[0] = pad.input[0]
    second.output[0] = third.input[0] = f"{dequantise.output[0]}__unpadded"
    third.output[0] = dequantise.output[0]
    editor.replace(pad, [first, second, third])
    editor.replace(quantise, [])
    editor.replace(dequantise, [])
