"""Identity: an aligned chip of a face -> a vector that is near for the same person and far for another."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import ModelError
from trt_facefusion.faces.converter import EmbeddingConverter
from trt_facefusion.model import sessions
from trt_facefusion.storage.files import read_regular

if TYPE_CHECKING:
    import onnxruntime

DLIB_MODEL = Path(__file__).resolve().parents[1] / "data" / "dlib_face_recognition_resnet_v1.onnx"
BATCH = 16
THREADS = 2

Embeddings = NDArray[np.float32]
"""[N,dim] float32."""


class Embedder(Protocol):
    """A network that tells people apart.

    ``template`` and ``size`` say how its chips are aligned. Two faces whose `make_comparable` vectors are nearer than
    ``same_person`` (L2) are taken for one person, farther than ``other_person`` surely for two. ``converter`` is what
    its vectors go through before a generator is fed with them, where that was trained with another recogniser.
    """

    name: str
    converter: EmbeddingConverter | None
    template: str
    size: int
    same_person: float
    other_person: float

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def fed_dim(self) -> int:
        """Length of the vectors that a generator is fed with: those of the converter, where there is one."""

    @property
    def digest(self) -> str:
        """sha256 of the model file."""

    def embed(self, chips: NDArray[np.uint8]) -> Embeddings:
        """Raw embeddings [N,dim] float32 of ``chips`` [N,size,size,3] uint8 RGB."""

    def make_comparable(self, embeddings: Embeddings) -> Embeddings:
        """The vectors [N,dim] whose L2 distances ``same_person`` and ``other_person`` speak of."""


def normalise_embeddings(embeddings: NDArray[np.float32]) -> Embeddings:
    """``embeddings`` [...,dim] divided by their L2 norm along the last axis; a zero vector stays zero."""
    norm = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return np.asarray(embeddings / np.maximum(norm, np.finfo(np.float32).tiny), np.float32)


class _OnnxEmbedder:
    """What the embedders share; the session opens on first use, because a digest alone is often all that is needed."""

    template: str
    size: int

    def __init__(self, path: Path, converter: EmbeddingConverter | None = None) -> None:
        self.path = path
        self.name = path.stem
        self.converter = converter

    @cached_property
    def digest(self) -> str:
        """sha256 of the model file.

        Raises:
            ModelError: the file cannot be read.
        """
        return hashlib.sha256(read_regular(self.path, "embedder", ModelError)).hexdigest()

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_embedder_session(self.path)

    def _normalise(self, chips: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _check_chips(self, chips: NDArray[np.uint8]) -> None:
        if chips.shape[1:] != (self.size, self.size, 3) or chips.dtype != np.uint8:
            raise ValueError(f"chips are {chips.dtype} {chips.shape}, not uint8 [N,{self.size},{self.size},3]")

    def embed(self, chips: NDArray[np.uint8]) -> Embeddings:
        """Raw embeddings [N,dim] float32 of ``chips`` [N,size,size,3] uint8 RGB, `BATCH` at a time.

        Raises:
            ValueError: the chips have another shape or type.
        """
        self._check_chips(chips)
        first = self._session.get_inputs()[0]
        fixed = first.shape[0] if isinstance(first.shape[0], int) else None
        parts = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(chips), fixed or BATCH):
            part = chips[start : start + (fixed or BATCH)]
            padded = np.resize(part, (fixed, *part.shape[1:])) if fixed else part
            output = self._session.run(None, {first.name: self._normalise(padded)})[0]
            parts.append(output[: len(part)].astype(np.float32))
        return np.concatenate(parts)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        raise NotImplementedError

    @property
    def fed_dim(self) -> int:
        """Length of the vectors that a generator is fed with."""
        return self.dim if self.converter is None else self.converter.dim


class DlibEmbedder(_OnnxEmbedder):
    """dlib's face recognition ResNet (in the package, CC0): 128 numbers, raw L2 under about 0.55 for one person."""

    template = "dlib_150"
    size = 150
    same_person = 0.5
    other_person = 0.6

    def __init__(self, converter: EmbeddingConverter | None = None) -> None:
        super().__init__(DLIB_MODEL, converter)
        self.name = "dlib"

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return 128

    def make_comparable(self, embeddings: Embeddings) -> Embeddings:
        """The raw vectors: dlib was trained on plain L2 distances."""
        return embeddings

    def _normalise(self, chips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ascontiguousarray(chips.transpose(0, 3, 1, 2), np.float32)


class ArcFaceEmbedder(_OnnxEmbedder):
    """A user's own ArcFace-style ONNX: 112 px, template arcface_112_v2, RGB, (x - 127.5) / 127.5, NCHW, any dim.

    Raises:
        ModelError: not a readable ONNX, or its input and output are not those of an ArcFace network.
    """

    template = "arcface_112_v2"
    size = 112
    # Unit vectors: L2 = sqrt(2 - 2 cos), for a cosine of 0.4 (one person for sure) and 0.2 (two people for sure).
    same_person = 1.095
    other_person = 1.265

    def __init__(self, path: Path, converter: EmbeddingConverter | None = None) -> None:
        super().__init__(path, converter)
        digest = self.digest
        self._dim = self._probe()
        self.name = f"{path.stem}-{digest[:8]}"

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._dim

    def make_comparable(self, embeddings: Embeddings) -> Embeddings:
        """Unit vectors: ArcFace compares angles."""
        return normalise_embeddings(embeddings)

    def _normalise(self, chips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return (np.ascontiguousarray(chips.transpose(0, 3, 1, 2), np.float32) - 127.5) / 127.5

    def _probe(self) -> int:
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if inputs else []
        fits = len(inputs) == 1 and len(shape) == 4 and inputs[0].type == "tensor(float)"
        fits = fits and all(
            not isinstance(size, int) or size == expected
            for size, expected in zip(shape[1:], (3, 112, 112), strict=True)
        )
        if not fits:
            described = "; ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs) or "none"
            raise ModelError(
                f"{self.path.name} is not an ArcFace network: its inputs are {described}, "
                "not one float tensor [N,3,112,112]",
                "Name an ArcFace-style ONNX such as w600k_r50.onnx, or leave it out to use the built-in embedder.",
            )
        batch = shape[0] if isinstance(shape[0], int) else 1
        output = self._session.run(None, {inputs[0].name: np.zeros((batch, 3, 112, 112), np.float32)})[0]
        if output.ndim != 2 or output.shape[0] != batch:
            raise ModelError(
                f"{self.path.name} is not an ArcFace network: its first output is {list(output.shape)}, not [N,dim]",
                "Name a network whose first output is the embedding.",
            )
        return int(output.shape[1])


def open_embedder_session(path: Path) -> onnxruntime.InferenceSession:
    """A quiet onnxruntime session on the CPU with at most 2 threads.

    Raises:
        ModelError: the file is missing or is not an ONNX that onnxruntime can run.
    """
    try:
        return sessions.open_session(path, sessions.make_session_options(THREADS))
    except Exception as error:  # onnxruntime has one exception type per failure and no common base
        raise ModelError(
            f"{path.name} cannot be opened as an ONNX model: {error}",
            "Check that the file is complete and that its operators are standard ONNX.",
        ) from error
