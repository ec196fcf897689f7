"""Kernels of an engine of OpenVINO, read from the graph that it really runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from trt_facefusion.engine.backends.base import Kernel, TensorFormat

MATH_TYPES = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})

_DTYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "uint8"}
_DTYPES |= {"i32": "int32", "i64": "int64", "u64": "uint64", "boolean": "bool"}
# What OpenVINO's convolution and linear layer read beside their two factors (a bias, a scale) says nothing of INT8.
_FACTORS = 2
_ADDED = "/WithoutBiases"


def map_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """What OpenVINO may call a node of ``model``, by its name or by that of a tensor it gives -> the node's name."""
    names = {output: node.name for node in model.graph.node for output in node.output}
    return names | {node.name: node.name for node in model.graph.node}


def read_kernels(runtime_model: Any, nodes: Mapping[str, str]) -> Iterator[Kernel]:
    """One kernel for each operation of ``CompiledModel.get_runtime_model()``, constants aside, in the order they run.

    The types are those that really are in memory. An operation multiplies 8-bit integers only where its implementation
    says so, too: its name ends in ``I8``.

    Args:
        runtime_model: the graph that OpenVINO runs, each operation with the names of the layers it was made from.
        nodes: see `map_nodes`; other layers were added by OpenVINO.
    """
    constants: set[str] = set()
    for operation in runtime_model.get_ordered_ops():
        facts = {key: str(getattr(value, "value", value)) for key, value in operation.get_rt_info().items()}
        sources = [port.get_source_output() for port in operation.inputs()]
        parents = [source.get_node().get_friendly_name() for source in sources]
        name = operation.get_friendly_name()
        if facts.get("layerType") == "Const" or (sources and all(parent in constants for parent in parents)):
            constants.add(name)  # and what is computed from nothing else, once
            continue
        formats = [_read_format(source, facts) for source in sources[:_FACTORS]]
        kind = facts.get("layerType", "")
        yield Kernel(
            name=name,
            type=kind,
            nodes=tuple(dict.fromkeys(_list_nodes(facts.get("originalLayersNames", ""), nodes))),
            inputs=tuple(f for f, parent in zip(formats, parents, strict=False) if parent not in constants),
            constants=tuple(f for f, parent in zip(formats, parents, strict=False) if parent in constants),
            outputs=tuple(_list_outputs(operation, facts)),
            tactic=facts.get("primitiveType", ""),
        )


def _read_format(source: Any, reader: Mapping[str, str]) -> TensorFormat:
    """One factor of an operation, whose own ``reader`` facts overrule an 8-bit type that it does not multiply in."""
    node = source.get_node()
    facts = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
    dtype = _pick(facts.get("outputPrecisions", ""), source.get_index())
    if reader.get("layerType") in MATH_TYPES and not reader.get("primitiveType", "").lower().endswith("i8"):
        dtype = _name_dtype(reader.get("runtimePrecision", ""))
    return TensorFormat(node.get_friendly_name(), dtype, _read_shape(source))


def _list_outputs(operation: Any, facts: Mapping[str, str]) -> Iterator[TensorFormat]:
    for index, port in enumerate(operation.outputs()):
        precisions, layouts = facts.get("outputPrecisions", ""), facts.get("outputLayouts", "")
        layout = layouts.split(",")[index] if index < len(layouts.split(",")) else layouts
        yield TensorFormat(operation.get_friendly_name(), _pick(precisions, index), _read_shape(port), layout)


def _pick(precisions: str, index: int) -> str:
    names = precisions.split(",")
    return _name_dtype(names[index] if index < len(names) else names[0])


def _name_dtype(precision: str) -> str:
    return _DTYPES.get(precision, precision or "unknown")


def _read_shape(port: Any) -> tuple[int, ...]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(axis.get_length() if axis.is_static else -1 for axis in shape)


def _list_nodes(layers: str, nodes: Mapping[str, str]) -> Iterator[str]:
    """The nodes among the names of ``layers``, which commas separate, and which may hold commas themselves."""
    parts = layers.split(",")
    start = 0
    while start < len(parts):
        start, node = _take_name(parts, start, nodes)
        if node:
            yield node


def _take_name(parts: list[str], start: int, nodes: Mapping[str, str]) -> tuple[int, str]:
    """The longest known name that begins with part ``start``: where the next one begins, and the node ("" for none)."""
    for end in range(len(parts), start, -1):
        name = ",".join(parts[start:end]).removesuffix(_ADDED)
        if name in nodes:
            return end, nodes[name]
    return start + 1, ""
