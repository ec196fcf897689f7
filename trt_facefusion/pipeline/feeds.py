"""Faces -> network inputs -> pictures: the one place where calibration, verification and serving agree on both ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.folder import FaceSet
from trt_facefusion.faces.pairing import cross_pairs
from trt_facefusion.presets import EmbeddingInput, FileInput, ImageInput, Preset
from trt_facefusion.runtime.base import Infers
from trt_facefusion.types import Array, Feeds, Progress, TensorSpec, silent

PAIRING_SEED = 0
MIN_SIDE_PX = 11
"""The window of SSIM."""


@dataclass(frozen=True)
class Feeder:
    """Network inputs for faces by number: each target crop with the identity of another person.

    ``projection`` is the matrix that the preset multiplies embeddings with, where it names one. ``fixed_batch`` is the
    number of samples that the model insists on: fewer are filled up with repeats.
    """

    preset: Preset
    faces: FaceSet
    embedder: Embedder
    projection: NDArray[np.float32] | None = None
    fixed_batch: int | None = None

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        """For each face the number of the face that lends its identity."""
        if self.preset.embedding is None:
            return np.arange(len(self.faces))
        comparable = self.embedder.comparable(self.faces.embeddings)
        return cross_pairs(comparable, PAIRING_SEED, other_person=self.embedder.other_person)

    def __call__(self, indices: Sequence[int]) -> Feeds:
        """Inputs for the targets ``indices``."""
        chosen = np.asarray(indices, np.int64)
        if self.fixed_batch is not None:
            chosen = np.resize(chosen, self.fixed_batch)
        feeds: dict[str, Array] = {}
        for spec in self.preset.inputs:
            if isinstance(spec, ImageInput):
                feeds[spec.name] = spec.encode(self.faces.crops[chosen])
            elif isinstance(spec, EmbeddingInput):
                feeds[spec.name] = spec.encode(self.faces.embeddings[self.sources[chosen]], self.projection)
            else:
                values = spec.values().astype(np.float32)
                feeds[spec.name] = np.repeat(values[None], len(chosen), 0)
        return feeds


def projection_of(preset: Preset, model: onnx.ModelProto) -> NDArray[np.float32] | None:
    """The matrix that ``preset`` wants from the *original* model (graph optimisers drop it, since no node uses it)."""
    wanted = preset.embedding.projection if preset.embedding else None
    if wanted is None:
        return None
    for tensor in model.graph.initializer:
        if tensor.name == wanted:
            return numpy_helper.to_array(tensor).astype(np.float32)
    raise ModelError(
        f"the preset {preset.name!r} needs the model's initializer {wanted!r}, which is not in the file",
        "use the original file: graph optimisers drop that matrix, because no node reads it",
    )


def input_shapes(preset: Preset, embedding_dim: int) -> dict[str, tuple[int, ...]]:
    """Shape of every described input, without batch axis."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in preset.inputs:
        if isinstance(spec, ImageInput):
            shapes[spec.name] = (3, spec.size, spec.size)
        elif isinstance(spec, FileInput):
            shapes[spec.name] = spec.values().shape
        else:
            shapes[spec.name] = (embedding_dim,)
    return shapes


def check_inputs(specs: Sequence[TensorSpec], described: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `BadInputError` unless the description names exactly the model's inputs, all FP32."""
    takes = "; ".join(map(str, specs))
    missing = [spec.name for spec in specs if spec.name not in described]
    unknown = [name for name in described if name not in {spec.name for spec in specs}]
    if missing or unknown:
        parts = [f"not described: {', '.join(missing)}"] if missing else []
        parts += [f"not in the model: {', '.join(unknown)}"] if unknown else []
        raise BadInputError(
            f"the inputs do not fit the model ({'; '.join(parts)}). The model takes {takes}",
            "describe each input once: --input NAME=image:SIZE:MIN:MAX[:bgr], NAME=embedding or NAME=file:VALUES.npy; "
            "or name a --preset",
        )
    odd = [str(spec) for spec in specs if spec.dtype != "float32"]
    if odd:
        raise BadInputError(
            f"the model takes {', '.join(odd)}, but inputs must be float32", "export it with FP32 inputs"
        )


def picture_output(preset: Preset, outputs: Sequence[TensorSpec]) -> str:
    """The name of the output that is a picture.

    Raises:
        ModelError: there is none.
    """
    pictures = [spec.name for spec in outputs if _is_picture(spec)]
    if preset.output.name in pictures:
        return str(preset.output.name)
    if pictures:
        return pictures[0]
    raise ModelError(
        f"no output of the model is a picture [N,3,H,W] of {MIN_SIDE_PX} px or more: {'; '.join(map(str, outputs))}",
        "this tool verifies generators by the pictures they make; export the network with its picture as an output",
    )


def _is_picture(spec: TensorSpec) -> bool:
    sides = [side for side in spec.shape[2:] if isinstance(side, int)]
    return len(spec.shape) == 4 and spec.shape[1] == 3 and all(side >= MIN_SIDE_PX for side in sides)


@dataclass(frozen=True)
class Painter:
    """Runs a model on a feeder's faces, ``batch`` samples at a time, and decodes the pictures."""

    feeder: Feeder
    output: str
    batch: int

    def __call__(
        self, runner: Infers, indices: Sequence[int] | None = None, progress: Progress = silent, stage: str = "verify"
    ) -> NDArray[np.float32]:
        """Pictures [N,H,W,3] float32, RGB, nominally in [0,1], of the faces ``indices`` (default: all)."""
        chosen = list(range(len(self.feeder.faces))) if indices is None else list(indices)
        pictures = []
        for start in range(0, len(chosen), self.batch):
            part = chosen[start : start + self.batch]
            tensor = runner.infer(self.feeder(part))[self.output]
            pictures.append(self.feeder.preset.output.decode(tensor)[: len(part)])
            progress(stage, start + len(part), len(chosen))
        return np.concatenate(pictures)
