"""Checks of a file's structure that onnx's own checker lacks, or survives badly: sizes, names, types, bytes.

They come first, so that everything behind them may trust what it reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from trt_facefusion.errors import ModelError
from trt_facefusion.model.messages import count_element_bits, count_tensor_bytes

MOST_NODES = 50_000
"""Nodes of a graph, those in branches, loops and functions included; large generators have some thousands."""
MOST_ELEMENTS = 1 << 40
MOST_RANK = 64

_HELD: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data", TensorProto.UINT32: "uint64_data", TensorProto.COMPLEX64: "float_data",
    TensorProto.COMPLEX128: "double_data", TensorProto.STRING: "string_data",
}  # fmt: skip
"""Where values lie that are not raw bytes; everything else lies in ``int32_data``."""


def check_structure(model: onnx.ModelProto, path: Path) -> None:
    """Check everything but values.

    Raises:
        ModelError: too many nodes, names that are no text, inputs or constants of unknown types, constants whose bytes
            do not fit their shape.
    """
    count = sum(len(graph.node) for graph in iterate_graphs(model.graph)) + sum(len(f.node) for f in model.functions)
    if count > MOST_NODES:
        raise ModelError(
            f"{path} has {count} nodes; at most {MOST_NODES} are read",
            "a generator has some thousands: export it without unrolled loops",
        )
    _require_text(_iterate_names(model), path)
    _check_border(model.graph, path)
    for tensor in iterate_tensors(model):
        _check_tensor(tensor, path)


def _iterate_names(model: onnx.ModelProto) -> Iterator[str]:
    """Every name that decides something. Those that are not UTF-8 come as bytes."""
    yield from (o.domain for o in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
        yield from (o.domain for o in function.opset_import)
    for graph in iterate_graphs(model.graph):
        for value in (*graph.input, *graph.output):
            yield value.name
            yield from (d.dim_param for d in value.type.tensor_type.shape.dim)
    for node in iterate_all_nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (text for a in node.attribute for text in (a.name, a.ref_attr_name))
    for tensor in iterate_tensors(model):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _require_text(names: Iterable[str | bytes], path: Path) -> None:
    for name in names:
        if isinstance(name, bytes) or "\0" in name:
            raise ModelError(
                f"{path} holds a name that is no text (UTF-8): {name[:40]!r}",
                "the file is damaged: export or download it again",
            )


def _check_border(graph: onnx.GraphProto, path: Path) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        seen: set[str] = set()
        for value in values:
            if value.name in seen or not value.name:
                what = f"two {kind}s called {value.name!r}" if value.name else f"an {kind} without a name"
                raise ModelError(f"{path} has {what}", "export the model again")
            seen.add(value.name)
            held = value.type.WhichOneof("value")
            if kind == "input" and value.name not in constants and held not in {None, "tensor_type"}:
                raise ModelError(
                    f"{path}: the input {value.name!r} is no tensor, but of the kind {str(held).removesuffix('_type')}",
                    "export the model so that its inputs are tensors",
                )
            element = value.type.tensor_type.elem_type
            if kind == "input" and not (count_element_bits(element) or element == TensorProto.STRING):
                raise ModelError(
                    f"{path}: the input {value.name!r} has the type number {element}, which is not known",
                    "export the model again",
                )
            if kind == "input" and value.name not in constants and not value.type.tensor_type.HasField("shape"):
                raise ModelError(
                    f"{path}: the input {value.name!r} says nothing of its axes",
                    "export the model with the inputs' axes; their sizes may be dynamic",
                )
            sizes = value.type.tensor_type.shape.dim
            if len(sizes) > MOST_RANK or any(abs(d.dim_value) > MOST_ELEMENTS for d in sizes):
                raise ModelError(f"{path}: the {kind} {value.name!r} has impossible sizes", "export the model again")


def _check_tensor(tensor: TensorProto, path: Path) -> None:
    bits, dims = count_element_bits(tensor.data_type), list(tensor.dims)
    problem = ""
    if not bits and tensor.data_type != TensorProto.STRING:
        problem = f"has the type number {tensor.data_type}, which is not known"
    elif min(dims, default=0) < 0 or len(dims) > MOST_RANK or math.prod(size or 1 for size in dims) > MOST_ELEMENTS:
        problem = f"has the impossible shape {dims}"
    elif tensor.data_location != TensorProto.EXTERNAL:
        problem = _find_wrong_content(tensor, bits)
    if problem:
        raise ModelError(f"{path}: the constant {tensor.name!r} {problem}", "export or download the model again")


def _find_wrong_content(tensor: TensorProto, bits: int) -> str:
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        if tensor.data_type == TensorProto.STRING:
            return "holds text as raw bytes"
        held = len(tensor.raw_data)
        wanted = count_tensor_bytes(tensor)
        return "" if held == wanted else f"holds {held} bytes, its shape {list(tensor.dims)} asks for {wanted}"
    values = len(getattr(tensor, _HELD.get(tensor.data_type, "int32_data")))
    if tensor.data_type in {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        elements *= 2
    if bits == 4:
        elements = (elements + 1) // 2
    return "" if values == elements else f"holds {values} values, its shape {list(tensor.dims)} asks for {elements}"


def iterate_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs nested in its If, Loop and Scan nodes."""
    yield graph
    yield from _nested(graph.node)


def _nested(found: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in found:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from iterate_graphs(inner)


def iterate_all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of nested graphs and of functions included."""
    for graph in iterate_graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node
        for graph in _nested(function.node):
            yield from graph.node


def iterate_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every constant: initializers, sparse ones, and what nodes hold as attributes."""
    inner = [graph for function in model.functions for graph in _nested(function.node)]
    for graph in (*iterate_graphs(model.graph), *inner):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in iterate_all_nodes(model):
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []:
                yield from (sparse.values, sparse.indices)
