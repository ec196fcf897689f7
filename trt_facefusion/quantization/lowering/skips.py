"""A tensor that skips what reads it in INT8 is read from the quantiser there, too, so that it is written once.

What is quantised for a convolution and also added behind it is written twice, in INT8 and in FP16. Where the addition
reads what the quantiser left, the copy in FP16 is saved, and the addition reads half as much. The picture pays with
the quantiser's error on the way past the layer.

That spares nothing where a compiler fuses the addition into a convolution, because that fusion wants FP16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from trt_facefusion.quantization.lowering.rewriting import GraphEditor, make_op

_BACK = "__from_int8"


def quantise_skips(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, a typed ONNX, whose additions read a tensor from its quantiser, where all that read it can."""
    editor = GraphEditor(model)
    place = {node.name: index for index, node in enumerate(model.graph.node)}
    for node in model.graph.node:
        quantised = _read_quantised(editor, node)
        if quantised is None:
            continue
        additions = [reader for reader in editor.readers[quantised.tensor] if reader.name not in quantised.way]
        behind = all(place[addition.name] > place[node.name] for addition in additions)
        if additions and behind and all(_can_read(editor, addition, quantised.tensor) for addition in additions):
            _read_back(editor, quantised, additions)
    return editor.finish() if editor.changed else model


@dataclass(frozen=True)
class _Quantised:
    """``tensor`` as ``dequantised`` has it, behind the padding, scale and shift of ``steps``, the last one first.

    ``way`` are the names of all nodes that read it to quantise it.
    """

    tensor: str
    dequantised: str
    steps: tuple[onnx.NodeProto, ...]
    way: frozenset[str]


def _read_quantised(editor: GraphEditor, dequantiser: onnx.NodeProto) -> _Quantised | None:
    """What ``dequantiser`` gives, where it reads an activation behind a quantiser."""
    quantiser = editor.producer.get(dequantiser.input[0]) if dequantiser.op_type == "DequantizeLinear" else None
    if quantiser is None or quantiser.op_type != "QuantizeLinear":
        return None
    steps: list[onnx.NodeProto] = []
    tensor = quantiser.input[0]
    while (step := editor.producer.get(tensor)) is not None and _is_step(editor, step):
        steps.append(step)
        tensor = step.input[0]
    if tensor not in editor.producer:
        return None  # an input of the network is there in floats anyway
    first = steps[-1] if steps else quantiser
    return _Quantised(tensor, dequantiser.output[0], tuple(steps), frozenset({first.name}))


def _is_step(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether the lowering put ``node`` in front of a quantiser: it pads, scales or shifts channels, for it alone."""
    if node.op_type not in {"Pad", "Mul", "Sub"} or editor.find_only_reader(node.output[0]) is None:
        return False
    values = editor.constant(node.input[1])
    if values is None or node.op_type == "Pad":
        return values is not None and node.name.endswith("__pad")
    return values.ndim == 4 and values.size == values.shape[1] and node.name.endswith(("__equalise", "__shift"))


def _can_read(editor: GraphEditor, node: onnx.NodeProto, tensor: str) -> bool:
    """Whether ``node`` adds ``tensor`` to something that no convolution could be fused with."""
    if node.op_type != "Add" or len(set(node.input)) != 2 or tensor in editor.outputs:
        return False
    (other,) = (name for name in node.input if name != tensor)
    producer = editor.producer.get(other)
    while producer is not None and producer.op_type in {"Add", "Mul"} and producer.input[1] in editor.constants:
        producer = editor.producer.get(producer.input[0])
    return producer is not None and producer.op_type != "Conv"


def _read_back(editor: GraphEditor, quantised: _Quantised, additions: list[onnx.NodeProto]) -> None:
    """Undo the steps behind the dequantiser, and have ``additions`` read that."""
    nodes: list[onnx.NodeProto] = []
    source = quantised.dequantised
    for number, step in enumerate(quantised.steps):
        output = f"{quantised.tensor}{_BACK}{number}"
        nodes.append(_undo(editor, step, source, output))
        source = output
    for addition in additions:
        changed = onnx.NodeProto()
        changed.CopyFrom(addition)
        changed.input[:] = [source if name == quantised.tensor else name for name in addition.input]
        editor.replace(addition, [*nodes, changed])
        nodes = []


def _undo(editor: GraphEditor, step: onnx.NodeProto, source: str, output: str) -> onnx.NodeProto:
    if step.op_type == "Sub":
        return make_op("Add", [source, step.input[1]], output)
    if step.op_type == "Mul":
        factors = editor.add_constant(f"{output}__factors", 1 / editor.read_constant(step.input[1]))  # powers of two
        return make_op("Mul", [source, factors], output)
    sizes = editor.read_constant(step.input[1]).reshape(2, -1)
    padded = np.flatnonzero(sizes.any(axis=0))
    ends = np.where(sizes[1] > 0, -sizes[1], np.iinfo(np.int64).max)
    starts, stops, axes = (
        editor.add_constant(f"{output}__{name}", values.astype(np.int64))
        for name, values in (("starts", sizes[0][padded]), ("ends", ends[padded]), ("axes", padded))
    )
    return make_op("Slice", [source, starts, stops, axes], output)
