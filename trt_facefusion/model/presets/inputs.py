"""What fills one network input, and how crops become its tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.presets.terse import Terse
from trt_facefusion.storage.arrays import read_npy
from trt_facefusion.storage.files import require_regular_file
from trt_facefusion.types import Array

TARGET, SOURCE = "target", "source"
"""Whose face an image shows: the person who is changed or restored, or the one who lends the identity."""

OF_THE_FILE = 0
"""The size of an image that each file has its own of."""

SIDES = ("lower", "upper", "left", "right")

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ImageFloats = NDArray[np.float32]
_Crops = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """One picture in the channels of an image input: whose face, and which side of it is black (``share`` of it)."""

    person: str = TARGET
    masked: str = ""
    share: float = 0.5

    def cut(self, crops: _Crops) -> _Crops:
        """``crops`` [N,H,W,3], the masked side black."""
        if not self.masked:
            return crops
        cropped: _Crops = crops.copy()
        along = cropped if self.masked in {"lower", "upper"} else cropped.transpose(0, 2, 1, 3)
        kept_size = along.shape[1] - round(self.share * along.shape[1])
        if self.masked in {"lower", "right"}:
            along[:, kept_size:] = 0
        else:
            along[:, : along.shape[1] - kept_size] = 0
        return cropped


@dataclass(frozen=True, repr=False)
class ImageInput(Terse):
    """Aligned crops. The tensor is ``(rgb01 - mean) / std`` per channel, NCHW, RGB unless ``bgr`` or ``gray``.

    ``size`` is the height, and the width too unless ``width`` says another. ``template`` None is that of the preset.
    ``person`` is `TARGET`, `SOURCE`, or "" where nobody said (`Preset.from_inputs` decides). ``parts`` are the pictures
    that are stacked along the channels; without them it is one, of ``person``. A known generator may have ``also``:
    other names that files give the input; and the size `OF_THE_FILE`. `binding.bind_preset` settles both.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"width", "gray", "nhwc", "template", "person", "parts", "also"})

    name: str
    size: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False
    width: int | None = None
    gray: bool = False
    nhwc: bool = False
    template: str | None = None
    person: str = TARGET
    parts: tuple[Part, ...] = ()
    also: tuple[str, ...] = ()

    @classmethod
    def with_range(cls, name: str, size: int, low: float, high: float, bgr: bool = False) -> ImageInput:
        """The input that maps pixel values 0..255 linearly to ``low``..``high``."""
        mean, std = compute_mean_std(low, high)
        return cls(name, size, (mean,) * 3, (std,) * 3, bgr)

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value the tensor can hold."""
        ends = [(v - m) / s for m, s in zip(self.mean, self.std, strict=True) for v in (0.0, 1.0)]
        return min(ends), max(ends)

    @property
    def pictures(self) -> tuple[Part, ...]:
        """The pictures along the channels."""
        return self.parts or (Part(self.person or TARGET),)

    @property
    def side(self) -> int:
        """Side in pixels of the square crop that the image is, or is cut from the middle of."""
        return max(self.size, self.width or self.size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one sample."""
        channels = len(self.pictures) * (1 if self.gray else 3)
        height, width = self.size, self.width or self.size
        return (height, width, channels) if self.nhwc else (channels, height, width)

    def shows(self, person: str) -> bool:
        """Whether ``person`` is in one of the pictures."""
        return any(part.person == person for part in self.pictures)

    def encode(self, crops: _Crops, sources: _Crops | None = None) -> _ImageFloats:
        """Target crops and source crops [N,S,S,3] uint8 RGB -> tensor float32, `shape` behind the batch axis."""
        stack = [
            self._order_channels(part, crops if part.person == TARGET or sources is None else sources)
            for part in self.pictures
        ]
        x = stack[0] if len(stack) == 1 else np.concatenate(stack, axis=3)
        return np.ascontiguousarray(x if self.nhwc else x.transpose(0, 3, 1, 2))

    def _order_channels(self, part: Part, crops: _Crops) -> _ImageFloats:
        """One picture [N,H,W,C]."""
        x = part.cut(self._crop_middle(crops)).astype(np.float32) / np.float32(255)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        if self.gray:
            return np.asarray(((x @ _LUMA)[..., None] - mean[:1]) / std[:1], np.float32)
        x = (x - mean) / std
        return np.asarray(x[..., ::-1] if self.bgr else x, np.float32)

    def _crop_middle(self, crops: _Crops) -> _Crops:
        if self.width is None or self.width == self.size:
            return crops
        top, left = (self.side - self.size) // 2, (self.side - self.width) // 2
        return crops[:, top : top + self.size, left : left + self.width]


@dataclass(frozen=True, repr=False)
class EmbeddingInput(Terse):
    """The source identity [N,D], L2-normalised unless ``normalise`` is off.

    ``projection`` names an initializer [D,D] of the model that the embedding is multiplied with (inswapper's
    ``buff2fs``); the product is normalised again, as InsightFace does. ``converter`` names a network that
    raw vectors go through first (the user has its file). `inference.identity` does all that. ``also`` are other names.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"converter", "also"})

    name: str
    normalise: bool = True
    projection: str | None = None
    converter: str | None = None
    also: tuple[str, ...] = ()

    def encode(self, embeddings: NDArray[np.float32], projection: NDArray[np.float32] | None = None) -> Array:
        """Raw embeddings [N,D], converted where there is a converter -> tensor [N,D] float32."""
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
    """Fixed values from a .npy file, the same for every sample."""

    name: str
    path: Path

    def values(self) -> Array:
        """The file's array, with or without a batch axis.

        Raises:
            BadInputError: the file is missing, not a plain .npy array, or holds values that are not finite.
        """
        require_regular_file(self.path, f"file of the input {self.name!r}")
        try:
            values: Array = read_npy(self.path)
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


@dataclass(frozen=True, repr=False)
class ValueInput(Terse):
    """One fixed number, with which the whole input is filled.

    ``range`` are the smallest and largest number that the generator was made for. ``also`` are other names; an input
    that is ``optional`` is left out where a file has no such input.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"range", "also", "optional"})

    name: str
    value: float | int
    range: tuple[float, float] | None = None
    also: tuple[str, ...] = ()
    optional: bool = False

    def values(self) -> Array:
        """The number as an array [] (float64 or int64)."""
        return np.array(self.value)


InputSpec: TypeAlias = ImageInput | EmbeddingInput | FileInput | ValueInput
Fixed: TypeAlias = FileInput | ValueInput


def compute_mean_std(low: float, high: float) -> tuple[float, float]:
    """Mean and deviation on 0..1 that map to ``low``..``high``."""
    return -low / (high - low), 1 / (high - low)


def is_range(low: float, high: float) -> bool:
    """Whether pixels can have these extremes: any wider or narrower range is a slip of the pen, and FP32 would lose
    the picture in it."""
    return all(map(math.isfinite, (low, high))) and -1e4 <= low < high <= 1e4 and high - low >= 1e-2
