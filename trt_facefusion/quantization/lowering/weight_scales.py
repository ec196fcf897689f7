"""One weight scale for each INT8 convolution, and what is special to a channel multiplied behind it.

TensorRT-RTX lets an INT8 convolution write FP16 only where its weights have one scale; with a scale for each output
channel it writes FP32, twice the bytes, and multiplies in the kernel behind it. So the convolution takes the power of
two above the largest scale, and the kernel behind it, which is there anyway, multiplies each channel by its own
scale over that one. The weights are the same integers, and the quotient of an FP16 number and a power of two is exact,
so nothing rounds differently but the convolution's FP16 result.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from trt_facefusion.quantization.lowering.rewriting import GraphEditor, make_op

_UNSCALED = "__unscaled"
_SCALED = "__scaled"


def share_weight_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, a typed ONNX, with one weight scale in each INT8 convolution that had one for each output channel."""
    editor = GraphEditor(model)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _share_scale(editor, node)
    return editor.finish() if editor.changed else model


def _share_scale(editor: GraphEditor, conv: onnx.NodeProto) -> None:
    dequantiser = editor.producer.get(conv.input[1])
    if dequantiser is None or dequantiser.op_type != "DequantizeLinear":
        return
    scales = editor.constant(dequantiser.input[1])
    if scales is None or scales.ndim != 1 or scales.dtype != np.float16:
        return
    bias = editor.constant(conv.input[2]) if len(conv.input) > 2 else None
    if len(conv.input) > 2 and bias is None:
        return
    shared = np.exp2(np.ceil(np.log2(scales.max().astype(np.float32)))).astype(np.float16)
    weight = f"{conv.input[1]}__shared"
    scale = editor.add_constant(f"{weight}__scale", shared)
    zero = editor.add_constant(f"{weight}__zero", np.zeros((), np.int8))
    output = conv.output[0]
    unscaled = helper.make_node("Conv", [conv.input[0], weight], [f"{output}{_UNSCALED}"], name=conv.name)
    unscaled.attribute.extend(conv.attribute)
    factors = editor.add_constant(f"{output}__factors", (scales / shared).astype(np.float16).reshape(1, -1, 1, 1))
    nodes = [make_op("DequantizeLinear", [dequantiser.input[0], scale, zero], weight), unscaled]
    if bias is None:
        nodes.append(make_op("Mul", [unscaled.output[0], factors], output))
    else:
        shift = editor.add_constant(f"{output}__shift", bias.reshape(1, -1, 1, 1))
        nodes += [
            make_op("Mul", [unscaled.output[0], factors], f"{output}{_SCALED}"),
            make_op("Add", [f"{output}{_SCALED}", shift], output),
        ]
    editor.replace(conv, nodes)
