"""Reading an ONNX file that nobody has vouched for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export.external import is_external, load_external_data, locate_data_files
from trt_facefusion.model.export.structure import check_structure, iterate_graphs, iterate_tensors
from trt_facefusion.model.export.tolerate import complete_notes, sort_nodes
from trt_facefusion.model.messages import hash_model, strip_weights

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_FLOAT = AttributeProto.FLOAT
_CHECKED_WITHOUT = 1 << 16
"""Constants of this many bytes are declared, not copied, to onnx's checker."""


def load_model(path: Path) -> onnx.ModelProto:
    """The model in ``path``, with its external data, after every check that needs no inputs.

    Raises:
        ModelError: no such file, not an ONNX file, truncated, refused by ``onnx.checker``, external data outside the
            model's folder, weights that are NaN.
    """
    model = _parse(path)
    sort_nodes(model.graph)
    load_external_data(iterate_tensors(model), path)
    check_model(model, str(path))
    return model


def check_model(model: onnx.ModelProto, name: str) -> None:
    """Every check of a whole model that needs no inputs; ``name`` is what errors call it.

    Raises:
        ModelError: onnx's checker refuses it, or a constant holds NaN.
    """
    sparse = [tensor.values.name for graph in iterate_graphs(model.graph) for tensor in graph.sparse_initializer]
    if sparse:
        raise ModelError(
            f"{name}: the constant {sparse[0]!r} is sparse, and no engine takes sparse constants",
            "export the model with dense weights",
        )
    try:
        lean = _make_checkable(model)
        onnx.checker.check_model(lean)
        for value, given in zip(lean.graph.output, model.graph.output, strict=True):
            if given.type.WhichOneof("value") is None:
                value.ClearField("type")
            elif value.type.WhichOneof("value") == "tensor_type":
                value.type.tensor_type.ClearField("shape")
        onnx.shape_inference.infer_shapes(lean, check_type=True, strict_mode=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{name} is not a valid ONNX model: {line}", "export the model again") from error
    for tensor in iterate_tensors(model):
        if tensor.data_type in _FLOATS:
            bad = int(np.isnan(numpy_helper.to_array(tensor)).sum())
            if bad:
                raise ModelError(
                    f"{name}: the constant {tensor.name!r} holds {bad} values that are NaN",
                    "the checkpoint is broken (training diverged?): use another one",
                )


def _make_checkable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as the checker should see it: large weights as inputs, and no hints that may be stale.

    ``value_info`` and the sizes of outputs are what an exporter or a tool once noted; nothing depends on them.
    """
    lean = strip_weights(model, _CHECKED_WITHOUT)
    complete_notes(lean)
    declared = {value.name for value in lean.graph.input}
    kept = []
    for tensor, whole in zip(lean.graph.initializer, model.graph.initializer, strict=True):
        if tensor == whole:
            kept.append(tensor)
        elif tensor.name not in declared:
            lean.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del lean.graph.initializer[:]
    lean.graph.initializer.extend(kept)
    for graph in iterate_graphs(lean.graph):
        del graph.value_info[:]
        _hide_group_norms(graph)
    for value in lean.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
            value.type.tensor_type.shape.SetInParent()  # the checker wants one
    return lean


def _hide_group_norms(graph: onnx.GraphProto) -> None:
    """Show what keeps type and shape in the place of GroupNormalization.

    Its definition of opset 18 was withdrawn, for which onnx's checker refuses it; onnxruntime runs it.
    """
    for node in graph.node:
        kinds = {a.name: a.type for a in node.attribute}
        numbers = kinds.get("num_groups") == AttributeProto.INT and kinds.get("epsilon", _FLOAT) == _FLOAT
        whole = len(node.input) == 3 and all(node.input) and numbers
        if node.op_type == "GroupNormalization" and node.domain in {"", "ai.onnx"} and whole:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]


def _parse(path: Path) -> onnx.ModelProto:
    data = _read(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"{path} is not an ONNX file, or was cut off ({error})", "export or download the file again"
        ) from error
    check_structure(model, path)
    if not model.graph.node:
        raise ModelError(f"{path} holds no network: it is not an ONNX file, or empty", "export the model again")
    return model


def _read(path: Path) -> bytes:
    """The file's content, if it is a regular file: a pipe would be waited for, and a device has no end."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = "is a folder" if stat.S_ISDIR(found.st_mode) else "is no regular file, but a pipe or a device"
            raise ModelError(f"the model {path} {what}", "name an ONNX file")
        if found.st_size >= 2 << 30:
            raise ModelError(
                f"{path} is larger than 2 GiB, where ONNX files end",
                "export the model with its weights in a file of their own (external data)",
            )
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ModelError(f"the model {path} does not exist", "name an ONNX file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {path}: {reason}", "check the path and the file's rights") from error


def digest_model(model: onnx.ModelProto) -> str:
    """SHA-256 of the model's serialised form (weights included)."""
    return hash_model(model).hexdigest()


def list_external_tensors(path: Path) -> list[TensorProto]:
    """Copies, without values, of what says where the external weights of the model in ``path`` lie.

    Raises:
        ModelError: no such file, not an ONNX file, truncated.
    """
    return [_copy_tensor(tensor) for tensor in iterate_tensors(_parse(path)) if is_external(tensor)]


def _copy_tensor(tensor: TensorProto) -> TensorProto:
    """A copy of its own: a part of a message keeps the whole alive."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def list_external_files(outside: Iterable[TensorProto], path: Path) -> list[Path]:
    """The files that hold the `list_external_tensors` of the model in ``path``, sorted.

    Raises:
        ModelError: a file or link that leads out of the model's own folder, or to none.
    """
    return sorted(set(locate_data_files(outside, path).values()))
