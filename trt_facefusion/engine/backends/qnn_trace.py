"""Kernels of an engine for Qualcomm's processor, read from the trace that its compiler writes of every node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.errors import BuildError

TRACE = "qnn_op_trace.json"
MATH_TYPES = frozenset(
    {"Conv2d", "DepthWiseConv2d", "TransposeConv2d", "Conv1d", "Conv3d", "FullyConnected", "MatMul", "BatchMatMul"}
)

# What onnxruntime adds to the names of nodes that it copies, or moves with a layout.
_ADDED = re.compile(r"(/duplicated)?(_token_\d+)?$")
_QUANTISES = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FLOAT = "fp16"
"""The processor has no wider floats."""


@dataclass(frozen=True)
class OpTrace:
    """What became of the nodes of a graph.

    ``kernels`` are the processor's operators; ``left`` the nodes that it does not take, with the library's reason. Not
    among them are quantisers: those at the borders of the graph are left to the CPU on purpose, others with what they
    serve.
    """

    kernels: tuple[Kernel, ...]
    left: Mapping[str, str] = field(default_factory=dict)


def read_trace(text: str, model: onnx.ModelProto) -> OpTrace:
    """The trace of ``model`` as the compiler wrote it.

    Raises:
        BuildError: it is not what this version of the library writes.
    """
    try:
        trace = json.loads(text)
        graph = _TracedGraph(model)
        mappings = [mapping for part in trace["subgraph_traces"] for mapping in part["op_mappings"]]
        kernels = tuple(graph.read_kernel(mapping) for mapping in mappings)
        return OpTrace(kernels, dict(_list_left(trace["unsupported_nodes"])))
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(
            f"The compiler's trace of the nodes cannot be read: {error!r}",
            "Install a tested version of onnxruntime-qnn (see the extra `qnn` in pyproject.toml).",
        ) from error


def _list_left(nodes: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        if node["op_type"] not in _QUANTISES:
            yield _ADDED.sub("", node["node_name"]), f"{node['op_type']}: {node['reason']}"


class _TracedGraph:
    """The lowered graph, by its names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = {node.name: node for node in model.graph.node}
        self.producer = {output: node for node in model.graph.node for output in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def read_kernel(self, mapping: Mapping[str, Any]) -> Kernel:
        """One operator of the processor, with the types that it really reads and writes."""
        operations = [source["name"] for source in mapping["sources"] if source["type"] == "OP"]
        own = [node for name in operations if (node := self.nodes.get(_ADDED.sub("", name))) is not None]
        computing = [node for node in own if node.op_type not in _QUANTISES]
        integers = any(name.startswith("DequantizeLinear") for name in operations) or len(own) > len(computing)
        formats = [self._read_factor(name, integers) for node in computing for name in node.input if name]
        return Kernel(
            name=str(mapping["dst_name"]),
            type=str(mapping["dst_qnn_op_type"]),
            nodes=tuple(dict.fromkeys(node.name for node in computing)),
            inputs=tuple(tensor for tensor, constant in formats if not constant),
            constants=tuple(tensor for tensor, constant in formats if constant),
            outputs=tuple(self._read_result(name, integers) for node in computing for name in node.output),
            tactic=str(mapping.get("node_group_type", "")),
        )

    def _read_factor(self, name: str, integers: bool) -> tuple[TensorFormat, bool]:
        """What an operator reads as ``name``, and whether that is a constant."""
        producer = self.producer.get(name)
        if integers and producer is not None and producer.op_type == "DequantizeLinear":
            stored = producer.input[0]
            tensor = self.constants.get(stored)
            zero = self.constants.get(producer.input[2]) if len(producer.input) > 2 else None
            kind = tensor.data_type if tensor is not None else zero.data_type if zero is not None else 0
            shape = tuple(tensor.dims) if tensor is not None else ()
            return TensorFormat(stored, _name_dtype(kind), shape), tensor is not None
        tensor = self.constants.get(name)
        if tensor is None:
            return TensorFormat(name, _FLOAT), False
        kind = tensor.data_type
        floats = kind in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
        return TensorFormat(name, _FLOAT if floats else _name_dtype(kind), tuple(tensor.dims)), True

    def _read_result(self, name: str, integers: bool) -> TensorFormat:
        quantisers = (n for n in self.nodes.values() if n.op_type == "QuantizeLinear" and n.input[0] == name)
        quantiser = next(quantisers, None) if integers else None
        if quantiser is None:
            return TensorFormat(name, _FLOAT)
        return TensorFormat(quantiser.output[0], _name_dtype(self.constants[quantiser.input[2]].data_type))


def _name_dtype(kind: int) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name) if kind else "unknown"
