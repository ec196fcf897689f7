"""A photo as it was handed in: its own channels and depth, so that what is not swapped stays as it is.

`faces.decode` gives every photo as RGB of 8 bits, which is what detectors and networks see. Here the same file is kept
as it is: grey, RGB or CMYK, 8 or 16 bits, with its alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from trt_facefusion.faces.decode import MAX_PIXELS, convert_to_rgb8, decode_by
from trt_facefusion.faces.image_file import read_bytes
from trt_facefusion.faces.kinds import HEAD_BYTES, detect_kind
from trt_facefusion.types import Image

GREY, RGB, CMYK = 1, 3, 4
"""Channels of `Photo.pixels`."""

_DEEP = 16
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_LOSSLESS_WEBP = b"VP8L"


@dataclass(frozen=True)
class JpegTables:
    """How a JPEG was coded: written again with the same tables, what is not touched loses next to nothing."""

    quantization: Mapping[int, Sequence[int]]
    sampling: int


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright photo.

    ``pixels`` [H,W,C] uint8 or uint16: grey, RGB or CMYK (0 is no ink). ``alpha`` [H,W] of the same type, or None.
    ``kind`` is what the file was (JPEG, PNG, ...), None for pixels that come from no file; ``profile`` its ICC profile.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    kind: str | None = None
    profile: bytes | None = None
    tables: JpegTables | None = None
    lossless: bool = True

    @property
    def full(self) -> int:
        """The largest value of a channel: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def channels(self) -> int:
        """`GREY`, `RGB` or `CMYK`."""
        return int(self.pixels.shape[2])

    @property
    def rgb8(self) -> Image:
        """The photo [H,W,3] uint8 RGB as detectors and networks see it: alpha laid on white."""
        rgb = self.region_rgb8(slice(None), slice(None))
        if self.alpha is None:
            return rgb
        alpha = scale_to_8(self.alpha)[..., None].astype(np.uint16)
        return np.asarray((rgb * alpha + 255 * (255 - alpha) + 127) // 255, np.uint8)

    def region_rgb8(self, rows: slice, columns: slice) -> Image:
        """The pixels of a region [h,w,3] uint8 RGB, whatever its alpha."""
        region = scale_to_8(self.pixels[rows, columns])
        if self.channels == GREY:
            return np.repeat(region, 3, axis=2)
        return cmyk_to_rgb(region) if self.channels == CMYK else region

    def copy(self) -> Photo:
        """The same photo with pixels of its own."""
        return replace(self, pixels=self.pixels.copy())


def scale_to_8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bits scaled to 8; 8 bits as they are."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def cmyk_to_rgb(inks: NDArray[np.uint8]) -> Image:
    """Inks [H,W,4] -> RGB, as Pillow does it: without the profile of any press."""
    rgb = PIL.Image.fromarray(np.ascontiguousarray(inks), "CMYK").convert("RGB")
    return np.asarray(rgb)


def rgb_to_cmyk(rgb: NDArray[np.float32], black: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Inks [H,W,4] that show ``rgb`` [H,W,3] (0..255) with as much of the ``black`` [H,W] that was there as goes."""
    kept = np.minimum(255.0 - rgb.max(axis=2), black.astype(np.float32))
    white = np.maximum(255.0 - kept, 1.0)[..., None]
    colours = 255.0 * (1.0 - rgb / white)
    inks = np.clip(np.concatenate([colours, kept[..., None]], axis=2), 0, 255)
    return np.asarray(np.rint(inks), np.uint8)


def to_grey(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """The brightness [H,W,1] of ``rgb`` [H,W,3]."""
    return np.asarray((rgb @ _LUMA)[..., None], np.float32)


def read_photo(path: Path) -> Photo:
    """The photo in ``path``.

    Raises:
        ImageTooLargeError: more than 256 MiB of file or 128 megapixels of picture.
        UnreadableImageError: no such file, no right to read it, or not a readable picture; 16-bit CMYK.
    """
    return decode_photo(read_bytes(path), path.name)


def decode_photo(encoded: bytes, name: str = "photo", max_pixels: int = MAX_PIXELS) -> Photo:
    """An encoded photo of at most ``max_pixels``, turned upright.

    Raises: as `read_photo`.
    """
    reader = _NativeReader()
    stacked = decode_by(encoded, name, reader, max_pixels)
    pixels = stacked[..., :-1] if reader.has_alpha else stacked
    return Photo(
        np.ascontiguousarray(pixels),
        np.ascontiguousarray(stacked[..., -1]) if reader.has_alpha else None,
        detect_kind(encoded[:HEAD_BYTES]),
        _read_profile(encoded),
        reader.tables,
        _LOSSLESS_WEBP in encoded[12:64] if encoded[8:12] == b"WEBP" else True,
    )


@dataclass
class _NativeReader:
    """Takes the channels of a picture as they are, alpha behind them, and remembers what they mean."""

    has_alpha: bool = False
    tables: JpegTables | None = field(default=None)

    def __call__(self, picture: PIL.Image.Image, encoded: bytes) -> NDArray[Any]:
        """The channels [H,W,C], alpha last."""
        if isinstance(picture, JpegImagePlugin.JpegImageFile):
            tables = {number: tuple(table) for number, table in picture.quantization.items()}
            self.tables = JpegTables(tables, JpegImagePlugin.get_sampling(picture))
        if _is_deep(picture, encoded):
            return self._read_deep(picture, encoded)
        mode = _choose_mode(picture)
        if mode is None:
            return convert_to_rgb8(picture)
        self.has_alpha = mode in {"LA", "RGBA"}
        channels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
        return channels[..., None] if channels.ndim == 2 else channels

    def _read_deep(self, picture: PIL.Image.Image, encoded: bytes) -> NDArray[np.uint16]:
        """16 bits: grey by Pillow, colours (which Pillow cuts to 8) by OpenCV."""
        if picture.mode.startswith("I"):
            grey = np.asarray(picture).astype(np.int64)
            if grey.min() < 0 or grey.max() > 65535:
                raise ValueError("32-bit pixel values, whose range is not known")
            return grey.astype(np.uint16)[..., None]
        if picture.mode == "CMYK":
            raise ValueError("CMYK of 16 bits, which is not read: save it as RGB of 16 bits or as CMYK of 8")
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if bgr is None or bgr.dtype != np.uint16 or bgr.shape[:2] != picture.size[::-1]:
            raise ValueError("16-bit pixels that cannot be decoded")
        bgr = bgr[..., None] if bgr.ndim == 2 else bgr
        self.has_alpha = bgr.shape[2] in {2, 4}
        if picture.mode in {"L", "LA"} and bgr.shape[2] > 2:
            return np.asarray(bgr[..., [0, 3]] if self.has_alpha else bgr[..., :1])
        order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(bgr.shape[2])
        return np.asarray(bgr if order is None else bgr[..., order])


def _is_deep(picture: PIL.Image.Image, encoded: bytes) -> bool:
    if picture.mode.startswith("I"):
        return True
    if picture.format == "PNG":
        return encoded[24] == _DEEP
    bits = getattr(picture, "tag_v2", {}).get(258, ())
    return picture.format == "TIFF" and picture.mode != "F" and _DEEP in (bits if isinstance(bits, tuple) else (bits,))


def _choose_mode(picture: PIL.Image.Image) -> str | None:
    """Pillow's mode that holds all of ``picture``; None where RGB of 8 bits does, by `faces.decode`."""
    if picture.mode == "CMYK":
        return "CMYK"
    grey = picture.mode in {"1", "L", "LA", "La"}
    if picture.has_transparency_data or picture.mode in {"LA", "La", "RGBA", "RGBa", "PA"}:
        return "LA" if grey else "RGBA"
    return "L" if grey else None


def _read_profile(encoded: bytes) -> bytes | None:
    """The ICC profile, which says which colours the numbers mean; of a broken one nothing is kept."""
    import io
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(encoded)) as picture:
                profile = picture.info.get("icc_profile")
    except Exception:  # Pillow raises almost any type on damaged metadata
        return None
    return profile if isinstance(profile, bytes) and 128 <= len(profile) <= 1 << 22 else None
