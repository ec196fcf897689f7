"""What fills one network input, and how a crop becomes a tensor and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.files import require_regular_file
from trt_facefusion.types import Array

INPUT_SYNTAX = "NAME=image:SIZE:MIN:MAX[:bgr], NAME=embedding or NAME=file:VALUES.npy"

_LARGEST_VALUE = 1e4
_SMALLEST_RANGE = 1e-2
"""Any wider or narrower range of pixel values is a slip of the pen, and FP32 would lose the picture in it."""

_ImageFloats = NDArray[np.float32]


@dataclass(frozen=True)
class ImageInput:
    """An aligned crop. The tensor is ``(rgb01 - mean) / std`` per channel, NCHW float32, RGB unless ``bgr``."""

    name: str
    size: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False

    @classmethod
    def with_range(cls, name: str, size: int, low: float, high: float, bgr: bool = False) -> ImageInput:
        """The input that maps pixel values 0..255 linearly to ``low``..``high``."""
        mean, std = _mean_std(low, high)
        return cls(name, size, (mean,) * 3, (std,) * 3, bgr)

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value the tensor can hold."""
        ends = [(v - m) / s for m, s in zip(self.mean, self.std, strict=True) for v in (0.0, 1.0)]
        return min(ends), max(ends)

    def encode(self, crops: NDArray[np.uint8]) -> _ImageFloats:
        """Crops [N,S,S,3] uint8 RGB -> tensor [N,3,S,S] float32."""
        x = crops.astype(np.float32) / np.float32(255)
        x = (x - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.bgr:
            x = x[..., ::-1]
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class EmbeddingInput:
    """The source identity [N,D], L2-normalised unless ``normalise`` is off.

    ``projection`` names an initializer [D,D] of the model that the embedding is multiplied with (inswapper's
    ``buff2fs``); the product is normalised again, as InsightFace does.
    """

    name: str
    normalise: bool = True
    projection: str | None = None

    def encode(self, embeddings: NDArray[np.float32], projection: NDArray[np.float32] | None = None) -> Array:
        """Raw embeddings [N,D] -> tensor [N,D] float32."""
        x = embeddings.astype(np.float32)
        if self.normalise:
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        if self.projection is not None:
            if projection is None or projection.shape[0] != x.shape[1]:
                shape = None if projection is None else projection.shape
                raise ModelError(
                    f"the preset multiplies the embedding ({x.shape[1]} values) with the model's initializer "
                    f"{self.projection!r}, which is {shape or 'not in the file'}",
                    "use the model's original file (optimisers drop that unused matrix), and the embedder it was "
                    "trained with",
                )
            x = x @ projection.astype(np.float32)
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x.astype(np.float32)


@dataclass(frozen=True)
class FileInput:
    """Fixed values from a .npy file, repeated for every sample of the batch."""

    name: str
    path: Path

    def values(self) -> Array:
        """The file's array, without a batch axis.

        Raises:
            BadInputError: the file is missing, not a plain .npy array, or holds values that are not finite.
        """
        require_regular_file(self.path, f"file of the input {self.name!r}")
        try:
            values: Array = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BadInputError(
                f"cannot read the values of input {self.name!r} from {self.path}: {error}",
                "write them with numpy.save as one plain array",
            ) from error
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise BadInputError(
                f"{self.path} does not hold one array of finite numbers", "write it with numpy.save as one plain array"
            )
        return values


InputSpec: TypeAlias = ImageInput | EmbeddingInput | FileInput


@dataclass(frozen=True)
class ImageOutput:
    """The output that is a picture: ``rgb01 = tensor * std + mean``. Without a name: the first 4-D output."""

    name: str | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False

    @classmethod
    def like(cls, image: ImageInput) -> ImageOutput:
        """The output that has the range and channel order of an input: what most generators do."""
        return cls(None, image.mean, image.std, image.bgr)

    def decode(self, tensor: Array) -> _ImageFloats:
        """Tensor [N,3,H,W] -> pictures [N,H,W,3] float32, RGB, nominally in [0,1]; not clipped, NaN survives."""
        x = tensor.astype(np.float32).transpose(0, 2, 3, 1)
        if self.bgr:
            x = x[..., ::-1]
        return np.ascontiguousarray(x * np.array(self.std, np.float32) + np.array(self.mean, np.float32))


def _mean_std(low: float, high: float) -> tuple[float, float]:
    return -low / (high - low), 1 / (high - low)


def parse_input(text: str) -> InputSpec:
    """One ``--input`` value.

    Raises:
        BadInputError: the text does not follow ``INPUT_SYNTAX``.
    """
    # Both names and paths may hold "=" and ":": the kind between them decides where the name ends.
    match = re.fullmatch(r"(?P<name>.+?)=(?P<kind>image|embedding|file)(:(?P<rest>.*))?", text)
    if match:
        name, kind, rest = match["name"], match["kind"], match["rest"] or ""
        if kind == "embedding" and not rest:
            return EmbeddingInput(name)
        if kind == "file" and rest:
            return FileInput(name, Path(rest))
        if kind == "image":
            image = _parse_image(name, rest)
            if image is not None:
                return image
    raise BadInputError(
        f"--input {text!r} is not understood", f"write {INPUT_SYNTAX}; for example input=image:256:-1:1"
    )


def _parse_image(name: str, rest: str) -> ImageInput | None:
    parts = rest.split(":")
    bgr = len(parts) == 4 and parts[3].lower() == "bgr"
    if len(parts) != 3 and not bgr:
        return None
    try:
        size, low, high = int(parts[0]), float(parts[1]), float(parts[2])
    except ValueError:
        return None
    if not (16 <= size <= 4096 and -_LARGEST_VALUE <= low < high <= _LARGEST_VALUE and high - low >= _SMALLEST_RANGE):
        return None
    return ImageInput.with_range(name, size, low, high, bgr)
