"""ONNX models as messages of any size: protobuf itself serialises no more than 2 GiB at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from trt_facefusion.errors import ModelError

if TYPE_CHECKING:
    from hashlib import _Hash

ONE_PIECE_BYTES = (2 << 30) - (64 << 20)
"""Weights of more than this may not fit into one message: 2 GiB, less room for nodes and names."""

LARGE = 1 << 16
"""Bytes of an initializer above which onnx's own passes need not see its values: none is a shape or an axis."""

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16, TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip


def count_element_bits(data_type: int) -> int:
    """Bits of one element of an ONNX type; 0 for strings and for types that are not known."""
    return _BITS.get(data_type, 0)


def count_tensor_bytes(tensor: TensorProto) -> int:
    """Bytes that a tensor's shape and type ask for, whatever it holds; nothing is copied."""
    return (math.prod(tensor.dims) * count_element_bits(tensor.data_type) + 7) // 8


def is_one_piece(model: onnx.ModelProto) -> bool:
    """Whether protobuf can serialise the whole model."""
    return sum(map(count_tensor_bytes, _iterate_constants(model))) <= ONE_PIECE_BYTES


def serialise_model(model: onnx.ModelProto) -> bytes:
    """The model in one piece.

    Raises:
        ModelError: it is too large for that.
    """
    if is_one_piece(model):
        try:
            return model.SerializeToString()
        except Exception as error:  # protobuf's error above its limit differs from version to version
            raise _report_too_large(model) from error
    raise _report_too_large(model)


def hash_model(model: onnx.ModelProto, at_once: int | None = None) -> _Hash:
    """A SHA-256 over the model's serialised form, to be read or added to.

    A model with more than ``at_once`` bytes of weights, or too large for one message, is hashed in parts: first what
    remains without its large weights, then those in order.
    """
    if (at_once is None or count_weight_bytes(model) <= at_once) and is_one_piece(model):
        return hashlib.sha256(model.SerializeToString(deterministic=True))
    digest = hashlib.sha256(strip_weights(model, 1 << 20).SerializeToString(deterministic=True))
    for graph in iterate_graphs(model.graph):
        for tensor in graph.initializer:
            if count_tensor_bytes(tensor) >= 1 << 20:
                digest.update(tensor.SerializeToString(deterministic=True))
    return digest


def count_weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all initializers, those of nested graphs included."""
    return sum(count_tensor_bytes(tensor) for graph in iterate_graphs(model.graph) for tensor in graph.initializer)


def iterate_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and all graphs inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if _holds_graphs(attribute) else ():
                yield from iterate_graphs(inner)


def _holds_graphs(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("g") or len(attribute.graphs) > 0


def strip_weights(model: onnx.ModelProto, smallest: int) -> onnx.ModelProto:
    """A copy whose initializers of at least ``smallest`` bytes keep name, type and shape, but hold no values."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            _copy_graph(model.graph, copy.graph, smallest)
        elif field.is_repeated:
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def declare_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as onnx's checker and inference may see it: its large weights are declared as inputs, not copied."""
    lean = strip_weights(model, LARGE)
    declared = {value.name for value in lean.graph.input}
    kept = []
    for tensor in lean.graph.initializer:
        if count_tensor_bytes(tensor) < LARGE:
            kept.append(tensor)
            continue
        if tensor.name not in declared:
            lean.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del lean.graph.initializer[:]
    lean.graph.initializer.extend(kept)
    return lean


def _copy_graph(graph: onnx.GraphProto, copy: onnx.GraphProto, smallest: int) -> None:
    for field, value in graph.ListFields():
        if field.name == "initializer":
            for tensor in value:
                added = copy.initializer.add()
                if count_tensor_bytes(tensor) < smallest:
                    added.CopyFrom(tensor)
                else:
                    added.name, added.data_type = tensor.name, tensor.data_type
                    added.dims.extend(tensor.dims)
        elif field.name == "node":
            for node in value:
                _copy_node(node, copy.node.add(), smallest)
        elif field.is_repeated:
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)


def _copy_node(node: onnx.NodeProto, copy: onnx.NodeProto, smallest: int) -> None:
    """Copy a node; the graphs in it lose their large weights, too."""
    if not any(_holds_graphs(attribute) for attribute in node.attribute):
        copy.CopyFrom(node)
        return
    for field, value in node.ListFields():
        if field.name == "attribute":
            for attribute in value:
                added = copy.attribute.add()
                if not _holds_graphs(attribute):
                    added.CopyFrom(attribute)
                    continue
                added.name, added.type = attribute.name, attribute.type
                if attribute.HasField("g"):
                    _copy_graph(attribute.g, added.g, smallest)
                for inner in attribute.graphs:
                    _copy_graph(inner, added.graphs.add(), smallest)
        elif field.is_repeated:
            getattr(copy, field.name).extend(value)
        else:
            setattr(copy, field.name, value)


def write_with_data(
    model: onnx.ModelProto, folder: Path, change: Callable[[onnx.GraphProto], None] | None = None
) -> Path:
    """Write ``model`` as ``model.onnx`` into ``folder``, its weights of 1 KiB and more in ``weights.bin`` beside it.

    The model is left as it is, and no second copy of its weights is made in memory. ``change`` is made to the graph
    that is written, whose weights hold no values then. Raises OSError.
    """
    smallest = 1 << 10
    lean = strip_weights(model, smallest)
    with (folder / "weights.bin").open("wb") as file:
        for tensor, placed in zip(_iterate_initializers(model), _iterate_initializers(lean), strict=True):
            if count_tensor_bytes(tensor) >= smallest:
                data = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
                placed.data_location = TensorProto.EXTERNAL
                values = {"location": "weights.bin", "offset": str(file.tell()), "length": str(len(data))}
                for key, value in values.items():
                    placed.external_data.add(key=key, value=value)
                file.write(data)
                file.write(bytes(-len(data) % 4096))  # onnxruntime maps the file: pages
    if change is not None:
        change(lean.graph)
    (folder / "model.onnx").write_bytes(lean.SerializeToString())
    return folder / "model.onnx"


def _iterate_initializers(model: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph in iterate_graphs(model.graph):
        yield from graph.initializer


def _iterate_constants(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from _iterate_initializers(model)
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield from (a.t for a in node.attribute if a.HasField("t"))


def _report_too_large(model: onnx.ModelProto) -> ModelError:
    gigabytes = sum(map(count_tensor_bytes, _iterate_constants(model))) / 1e9
    return ModelError(
        f"the network holds {gigabytes:.1f} GB of weights: in one piece, ONNX ends at 2 GiB, and an engine is made "
        "from one piece",
        "build a smaller network, or only FP16 (--fp16), which halves the weights",
    )
