"""The source's embedding -> what a generator is fed: the one place where feeding and swapping agree on an identity."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.errors import ModelError
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.model.presets import EmbeddingInput, Preset
from trt_facefusion.types import Array

Matrix = NDArray[np.float32]
"""[D,D]: what embeddings are multiplied with."""


def encode_identity(spec: EmbeddingInput, raw: Matrix, embedder: Embedder, projection: Matrix | None = None) -> Array:
    """Raw vectors [N,dim] of ``embedder`` -> tensor [N,D] float32 as the input ``spec`` wants it.

    They go through the embedder's converter, or are divided by their length, multiplied with ``projection`` and divided
    by their length again, as ``spec`` says. Several photos of one person: take the mean of their raw vectors before.

    Raises:
        ModelError: the converter or the matrix is missing, or takes vectors of another length.
    """
    if spec.converter is None:
        return spec.encode(raw, projection)
    if embedder.converter is None:
        raise ModelError(
            f"the input {spec.name!r} takes vectors of {spec.converter}, and no such network is there",
            "name its ONNX file with --converter",
        )
    return spec.encode(embedder.converter.convert(np.asarray(raw, np.float32)), projection)


def find_projection(preset: Preset, model: onnx.ModelProto) -> Matrix | None:
    """The matrix that ``preset`` wants from the *original* model (graph optimisers drop it, since no node uses it).

    It is taken by its name, else by its shape: the only square matrix of 512 that no node reads, else the only one at
    all. Its place in the file says nothing: files exist with other constants behind it. FP16 becomes float32.

    Raises:
        ModelError: there is none, or several may be it.
    """
    name = preset.embedding.projection if preset.embedding else None
    if name is None:
        return None
    by_name = [tensor for tensor in model.graph.initializer if tensor.name == name]
    candidates = by_name or list_unread_matrices(model)
    if len(candidates) > 1:
        raise ModelError(
            f"the preset {preset.name!r} multiplies the embedding with {name!r}, and the file has "
            f"{', '.join(tensor.name for tensor in candidates)} of its shape, none of that name",
            "say which one with --input NAME=embedding:projection=INITIALIZER",
        )
    if not candidates:
        raise ModelError(
            f"the preset {preset.name!r} needs the model's initializer {name!r}, which is not in the file",
            "use the original file: graph optimisers drop that matrix, because no node reads it",
        )
    return np.asarray(onnx.numpy_helper.to_array(candidates[0]), np.float32)


_EMBEDDING = 512


def list_unread_matrices(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Matrices [512,512] of floats that no node reads; where there are none, all of that shape."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    read = {name for node in model.graph.node for name in node.input}
    square = [
        tensor
        for tensor in model.graph.initializer
        if list(tensor.dims) == [_EMBEDDING, _EMBEDDING] and tensor.data_type in floats
    ]
    return [tensor for tensor in square if tensor.name not in read] or square
