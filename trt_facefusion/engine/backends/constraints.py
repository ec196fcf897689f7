"""A plan as per-layer precision constraints of a weakly typed TensorRT 10 network.

What is held, and why:

* FP32 and FP16 nodes compute in their precision and write it. Otherwise TensorRT would run additions, resizes and
  concatenations in INT8, too, which no verification has seen.
* INT8 nodes are left free: INT8 is allowed there, and TensorRT takes it where it is faster. Where such a node's result
  goes to a node that is not INT8, its output is held to FP16, because the typed graph hands the float result on, too.
* A rectifier between INT8 nodes is left free: rounding behind it is what the next node's quantiser does anyway, and
  TensorRT fuses it into the convolution before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import onnx

from trt_facefusion.engine.backends.base import ConstraintReport
from trt_facefusion.model.graph import GraphView
from trt_facefusion.types import Precision

if TYPE_CHECKING:
    import tensorrt as trt

_RECTIFIERS = frozenset({"Relu", "LeakyRelu", "Clip", "PRelu"})
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]*(?:\[ONNX Layer: |$))")


@dataclass(frozen=True)
class Constraint:
    """What one node's layers are held to: the type they compute in and the type they write; None is free."""

    compute: Precision | None
    output: Precision | None


FREE = Constraint(None, None)


def derive_constraints(model: onnx.ModelProto, precisions: Mapping[str, Precision]) -> dict[str, Constraint]:
    """The constraint of every node of the plan ``precisions``; the rules are at the head of this file."""
    view = GraphView(model)
    free = _find_free_nodes(view, precisions)
    constraints = {}
    for name, precision in precisions.items():
        node = view.nodes[name]
        if name not in free:
            constraints[name] = Constraint(precision, precision)
        elif all(_reads_int8(view, output, free) for output in node.output if output):
            constraints[name] = FREE
        else:
            constraints[name] = Constraint(None, Precision.FP16)
    return constraints


def _find_free_nodes(view: GraphView, precisions: Mapping[str, Precision]) -> set[str]:
    free = {name for name, precision in precisions.items() if precision is Precision.INT8}
    for name, precision in precisions.items():
        node = view.nodes[name]
        if node.op_type not in _RECTIFIERS or precision is not Precision.FP16:
            continue
        producer = view.producer.get(node.input[0])
        if producer is not None and precisions.get(producer.name) is Precision.INT8:
            readers = view.consumers.get(node.output[0], [])
            if _reads_int8(view, node.output[0], free & {reader.name for reader in readers}):
                free.add(name)
    return free


def _reads_int8(view: GraphView, tensor: str, free: set[str]) -> bool:
    """Whether nothing but free nodes reads ``tensor``."""
    readers = view.consumers.get(tensor, [])
    return tensor not in view.output_names and bool(readers) and all(reader.name in free for reader in readers)


def read_layer_nodes(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that a layer's metadata names."""
    return tuple(_NODE.findall(metadata))


def apply_constraints(
    api: ModuleType,
    network: trt.INetworkDefinition,
    constraints: Mapping[str, Constraint],
    node_names: Mapping[str, str],
) -> ConstraintReport:
    """Hold the layers of ``network`` to ``constraints`` and report how nodes and layers belong together.

    ``node_names`` maps the names that metadata gives to ONNX nodes (`map_parser_names`).
    """
    layers: dict[str, list[str]] = {node: [] for node in constraints}
    without_node: list[str] = []
    constrained = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        nodes = [node_names[name] for name in read_layer_nodes(layer.metadata) if name in node_names]
        if not nodes:
            without_node.append(layer.name)
        for node in nodes:
            if node in constraints:
                layers[node].append(layer.name)
                constrained += _hold(api, layer, constraints[node])
    return ConstraintReport(
        layers={node: tuple(names) for node, names in layers.items()},
        constrained=constrained,
        free=tuple(node for node, constraint in constraints.items() if constraint.compute is None),
        without_layer=tuple(node for node, c in constraints.items() if c.compute is not None and not layers[node]),
        without_node=tuple(without_node),
    )


def map_parser_names(model: onnx.ModelProto) -> dict[str, str]:
    """Names as the parser's metadata has them -> names of the nodes of ``model``."""
    return {node.name or f"node_of_{node.output[0]}": node.name for node in model.graph.node if node.output}


def _hold(api: ModuleType, layer: trt.ILayer, constraint: Constraint) -> bool:
    """Set a layer's types; whether there was anything to set.

    Layers of fixed type (constants, shapes, casts) and tensors that hold no floats have no precision to choose.
    """
    trt = api
    types = {Precision.FP32: trt.DataType.FLOAT, Precision.FP16: trt.DataType.HALF}
    if layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST):
        return False
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    floats = [index for index, tensor in enumerate(outputs) if _is_float(api, tensor)]
    if not floats:
        return False
    if constraint.compute is not None:
        layer.precision = types[constraint.compute]
    if constraint.output is not None:
        for index in floats:
            # A network output keeps its FP32; TensorRT converts behind the layer.
            dtype = trt.DataType.FLOAT if outputs[index].is_network_output else types[constraint.output]
            layer.set_output_type(index, dtype)
    return constraint.compute is not None or constraint.output is not None


def _is_float(api: ModuleType, tensor: trt.ITensor) -> bool:
    trt = api
    return tensor.dtype in (trt.DataType.FLOAT, trt.DataType.HALF) and not tensor.is_shape_tensor
