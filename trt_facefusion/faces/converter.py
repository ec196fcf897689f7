"""A network that turns the vectors of one recogniser into those of another, with which a generator was trained."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import ModelError
from trt_facefusion.model import sessions
from trt_facefusion.storage.files import read_regular

if TYPE_CHECKING:
    import onnxruntime

_THREADS = 1
"""Vectors are small: the networks are a few linear layers."""


class EmbeddingConverter:
    """A user's ONNX with one float input [N,D] and the converted vectors [N,D'] as its first output (crossface_*).

    It takes raw embeddings, as the embedder gives them, and normalises inside where it needs that.

    Raises:
        ModelError: not a readable ONNX, or its input and output are not those of such a network.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256(read_regular(path, "converter", ModelError)).hexdigest()
        self.source_dim, self.dim = self._probe()

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        try:
            return sessions.open_session(self.path, sessions.make_session_options(_THREADS))
        except Exception as error:  # onnxruntime has one exception type per failure and no common base
            raise ModelError(
                f"{self.path.name} cannot be opened as an ONNX model: {error}",
                "check that the file is complete and that its operators are standard ONNX",
            ) from error

    def convert(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw vectors [N,source_dim] -> [N,dim] float32, not normalised.

        Raises:
            ModelError: the vectors have another length, or what comes out is not finite.
        """
        if embeddings.shape[1:] != (self.source_dim,):
            raise ModelError(
                f"{self.path.name} converts vectors of {self.source_dim} values, and the embedder's have "
                f"{embeddings.shape[-1]}",
                "name the embedder that it was trained with, with --embedder",
            )
        name = self._session.get_inputs()[0].name
        rows = [self._session.run(None, {name: row[None].astype(np.float32)})[0] for row in embeddings]
        converted = np.concatenate([np.zeros((0, self.dim), np.float32), *rows]).astype(np.float32)
        if not np.isfinite(converted).all():
            raise ModelError(f"{self.path.name} gives NaN or infinity", "use another file of that converter")
        return converted

    def _probe(self) -> tuple[int, int]:
        """Lengths of the vectors that go in and come out."""
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if inputs else []
        if len(inputs) != 1 or len(shape) != 2 or inputs[0].type != "tensor(float)" or not isinstance(shape[1], int):
            described = "; ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs) or "none"
            raise ModelError(
                f"{self.path.name} is no converter of embeddings: its inputs are {described}, not one float [N,D]",
                "name an ONNX such as FaceFusion's crossface_simswap.onnx",
            )
        output = self._session.run(None, {inputs[0].name: np.full((1, shape[1]), shape[1] ** -0.5, np.float32)})[0]
        if output.ndim != 2 or output.shape[0] != 1:
            raise ModelError(
                f"{self.path.name} is no converter of embeddings: its first output is {list(output.shape)}, not [N,D]",
                "name a network whose first output is the converted vector",
            )
        return int(shape[1]), int(output.shape[1])
