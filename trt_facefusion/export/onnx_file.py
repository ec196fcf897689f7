"""Reading an ONNX file that nobody has vouched for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from trt_facefusion.errors import ModelError
from trt_facefusion.files import require_regular_file


def load_model(path: Path) -> onnx.ModelProto:
    """The model in ``path``, with its external data, after every check that needs no inputs.

    Raises:
        ModelError: no such file, not an ONNX file, truncated, refused by ``onnx.checker``, external data outside the
            model's folder, weights that are not finite.
    """
    model = _parse(path)
    _load_external_data(model, path)
    _check(model, path)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    require_regular_file(path, "model", ModelError)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"{path} is not an ONNX file, or was cut off ({error})", "export or download the file again"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the file's rights") from error
    if not model.graph.node:
        raise ModelError(f"{path} holds no network: it is not an ONNX file, or empty", "export the model again")
    return model


def model_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of the model's serialised form (weights included)."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def external_files(path: Path) -> list[Path]:
    """The files that hold weights of the model in ``path``, sorted.

    Raises:
        ModelError: as `load_model`; above all, a file outside the model's own folder.
    """
    return _external_files(_parse(path), path)


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    folder = path.resolve().parent
    files = set()
    for location in {ExternalDataInfo(tensor).location for tensor in _tensors(model) if uses_external_data(tensor)}:
        data = (folder / location).resolve()
        if Path(location).is_absolute() or not data.is_relative_to(folder):
            raise ModelError(
                f"{path} wants weights from {location!r}, outside its own folder",
                "put the weights beside the model; a file that points elsewhere is not read",
            )
        if not data.is_file():
            raise ModelError(f"{path} needs the weights file {location!r}, which is missing", "put it beside the model")
        files.add(data)
    return sorted(files)


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    _external_files(model, path)
    try:
        onnx.load_external_data_for_model(model, str(path.resolve().parent))
    except Exception as error:
        raise ModelError(f"cannot read the external weights of {path}: {error}", "export the model again") from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant: initializers, and what `Constant` and other nodes hold as attributes."""
    graphs = list(_graphs(model.graph))
    for graph in graphs:
        yield from graph.initializer
    for nodes in (*(graph.node for graph in graphs), *(function.node for function in model.functions)):
        for node in nodes:
            for attribute in node.attribute:
                yield from (t for t in (attribute.t, *attribute.tensors) if t.data_type)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs nested in its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _check(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is not a valid ONNX model: {line}", "export the model again") from error
    for tensor in _tensors(model):
        if tensor.data_type in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}:
            values = numpy_helper.to_array(tensor)
            if not np.isfinite(values).all():
                bad = int(values.size - np.isfinite(values).sum())
                raise ModelError(
                    f"{path}: the constant {tensor.name!r} holds {bad} values that are NaN or infinite",
                    "the checkpoint is broken (training diverged?): use another one",
                )
