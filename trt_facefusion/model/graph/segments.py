"""Two graphs of one model, cut at the tensors that both know, so that each piece can be run by itself.

Lowering keeps the names of the tensors and puts casts and Q/DQ between them. A *segment* is what computes one common
tensor from others: the node with its casts, its quantisers and its constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.view import FLOATS, GraphView

GIVEN = "__given"
"""Suffix of the inputs of ``spliced``: the tensor's value from elsewhere."""

_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Segment:
    """What computes ``tensor``: ``nodes`` (indices, in graph order) from the common tensors ``reads``."""

    tensor: str
    reads: tuple[str, ...]
    nodes: tuple[int, ...]


def set_input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """A copy of ``model`` for inputs of exactly these shapes, with the shapes of all tensors as far as they follow.

    Raises:
        ModelError: the model is damaged.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    constants = {tensor.name for tensor in sized.graph.initializer}
    fed = [value for value in sized.graph.input if value.name not in constants]
    del sized.graph.input[:]
    sized.graph.input.extend(fed)
    for value in sized.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(shapes[value.name])))
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(sized, data_prop=True)
    except Exception as error:  # onnx's own InferenceError, and others for damaged models
        raise ModelError(
            f"the model's shapes do not follow from its inputs: {error}", "export the model again"
        ) from error


def list_activations(view: GraphView) -> dict[str, tuple[int, ...]]:
    """Float tensors that depend on the inputs, with their shapes, in graph order; unknown shapes are left out."""
    alive = set(view.input_names)
    found = {}
    for node in view.model.graph.node:
        if alive.isdisjoint(node.input):
            continue
        alive.update(name for name in node.output if name)
        for name in node.output:
            shape = view.shape(name) if name and view.element_type(name) in FLOATS else None
            if shape and all(isinstance(axis, int) for axis in shape):
                found[name] = tuple(int(axis) for axis in shape)
    return found


def find_segments(view: GraphView, common: Iterable[str]) -> dict[str, Segment]:
    """The segment of every tensor of ``common``, in the order of the graph."""
    cuts = set(common) | set(view.input_names)
    number = {id(node): index for index, node in enumerate(view.model.graph.node)}
    return {name: _find_segment(view, name, cuts, number) for name in view.producer if name in cuts}


def _find_segment(view: GraphView, tensor: str, cuts: set[str], number: Mapping[int, int]) -> Segment:
    nodes, reads, waiting = set(), set(), [tensor]
    while waiting:
        producer = view.producer.get(waiting.pop())
        if producer is None or number[id(producer)] in nodes:
            continue
        nodes.add(number[id(producer)])
        for name in producer.input:
            if name in cuts:
                reads.add(name)
            elif name:
                waiting.append(name)
    return Segment(tensor, tuple(sorted(reads)), tuple(sorted(nodes)))


def read_precision(view: GraphView, segment: Segment) -> str:
    """``int8``, ``fp16`` or ``fp32``: what the node of a segment computes in."""
    nodes = [view.model.graph.node[index] for index in segment.nodes]
    if any(node.op_type in _QUANTISERS for node in nodes):
        return "int8"
    made = [name for node in nodes if node.op_type != "Cast" for name in node.output if name]
    return "fp16" if any(view.element_type(name) == TensorProto.FLOAT16 for name in made) else "fp32"


def tap_tensors(view: GraphView, tensors: Sequence[str]) -> onnx.ModelProto:
    """The part of the model that computes ``tensors``, which are its outputs."""
    needed, nodes = set(tensors), []
    for node in reversed(view.model.graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(node.input)
    return _build_model(view, list(reversed(nodes)), view.model.graph.input, tensors)


def splice_segments(view: GraphView, parts: Sequence[Segment], shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The segments ``parts`` side by side: every common tensor that they read is an input, ``<name>__given``."""
    reads = {name for part in parts for name in part.reads}
    nodes = []
    for index in sorted({index for part in parts for index in part.nodes}):
        node = onnx.NodeProto()
        node.CopyFrom(view.model.graph.node[index])
        for position, name in enumerate(node.input):
            if name in reads:
                node.input[position] = f"{name}{GIVEN}"
        nodes.append(node)
    inputs = [
        helper.make_tensor_value_info(f"{name}{GIVEN}", view.element_type(name), list(shapes[name]))
        for name in sorted(reads)
    ]
    return _build_model(view, nodes, inputs, [part.tensor for part in parts])


def graft_segment(view: GraphView, other: GraphView, part: Segment) -> onnx.ModelProto:
    """The model with one tensor computed as ``other`` computes it: ``part`` is a segment of ``other``."""
    prefix = f"{part.tensor}__grafted/"
    nodes, constants = _transplant(other, part, prefix)
    result = onnx.ModelProto()
    result.CopyFrom(view.model)
    graph = result.graph
    place = next(index for index, node in enumerate(graph.node) if part.tensor in node.output)
    for position, name in enumerate(graph.node[place].output):
        if name == part.tensor:
            graph.node[place].output[position] = f"{prefix}replaced"
    rest = list(graph.node)
    graph.ClearField("node")
    graph.ClearField("value_info")
    graph.node.extend([*rest[:place], *nodes, *rest[place:]])
    graph.initializer.extend(constants)
    return result


def _transplant(other: GraphView, part: Segment, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants of ``part``; everything but what it reads and makes gets ``prefix``."""
    originals = [other.model.graph.node[index] for index in part.nodes]
    inside = {name for node in originals for name in node.output if name} - set(part.reads)
    read = {name for node in originals for name in node.input}
    constants = []
    for tensor in other.model.graph.initializer:
        if tensor.name in read:
            constants.append(onnx.TensorProto())
            constants[-1].CopyFrom(tensor)
            constants[-1].name = prefix + tensor.name
            inside.add(tensor.name)
    nodes = []
    for original in originals:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.name = prefix + node.name
        for position, name in enumerate(node.input):
            node.input[position] = prefix + name if name in inside else name
        for position, name in enumerate(node.output):
            node.output[position] = prefix + name if name and name != part.tensor else name
        nodes.append(node)
    return nodes, constants


def _build_model(
    view: GraphView, nodes: list[onnx.NodeProto], inputs: Iterable[onnx.ValueInfoProto], outputs: Sequence[str]
) -> onnx.ModelProto:
    source = view.model
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        source.graph.name or "part",
        [value for value in inputs if value.name in read],
        # Without types: onnxruntime infers them, for more operators than onnx's own inference knows.
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [tensor for tensor in source.graph.initializer if tensor.name in read],
    )
    return helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
