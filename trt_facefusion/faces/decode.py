"""Image files -> upright RGB pixels, without trusting the file.

Pillow rather than OpenCV: it tells the size before it decodes, and reads CMYK, palettes and alpha right. It gets the
pixels only: what else is in a file is taken off before (`metadata`).
"""

from __future__ import annotations

import importlib.util
import io
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from trt_facefusion.faces.image_file import ImageTooLargeError, UnreadableImageError, read_bytes
from trt_facefusion.faces.kinds import HEAD_BYTES, READ, detect_kind, explain_unread
from trt_facefusion.faces.metadata import strip_metadata
from trt_facefusion.faces.orientation import turn_upright
from trt_facefusion.types import Image

MAX_PIXELS = 128_000_000

# Only what photos come in: every further parser is one more that a hostile file can reach.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

_STRIP_PIXELS = 4_000_000
_CONVERT = "Save it again as JPEG or PNG with another program, or take it out of the folder."
_warnings_lock = threading.Lock()


def read_image(path: Path) -> Image:
    """The picture in ``path`` as [H,W,3] uint8 RGB; see `decode_image`.

    Raises:
        ImageTooLargeError: more than 256 MiB of file or 128 megapixels of picture.
        UnreadableImageError: no such file, no right to read it, or not a readable picture.
    """
    return decode_image(read_bytes(path), path.name)


def decode_image(encoded: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> Image:
    """An encoded picture as [H,W,3] uint8 RGB: turned upright by its EXIF, 16 bits scaled to 8, alpha laid on white.

    Nothing but the pixels decides whether it can be read. Of several frames or pages the first is taken.

    Raises:
        ImageTooLargeError: the header promises more than ``max_pixels`` (nothing has been decoded then).
        UnreadableImageError: not JPEG, PNG, WebP, BMP or TIFF, damaged or truncated, of a type without a range, or
            packed such that it would take minutes.
    """
    return decode_by(encoded, name, lambda picture, _: convert_to_rgb8(picture), max_pixels)


def count_pixels(encoded: bytes) -> int:
    """Pixels that the header of an encoded picture promises; 0 where it cannot be read. Nothing is decoded."""
    try:
        with _open(encoded, FORMATS) as picture:
            width, height = picture.size
            return int(width) * int(height)
    except Exception:  # as when it is decoded, which then says why
        return 0


PixelReader = Callable[[PIL.Image.Image, bytes], NDArray[Any]]
"""Takes the pixels [H,W,C] of a picture that Pillow has decoded, and whose metadata-free file is handed in, too."""


def decode_by(encoded: bytes, name: str, read: PixelReader, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """An encoded picture as what ``read`` takes of it, turned upright by its EXIF.

    Raises: as `decode_image`; whatever ``read`` raises becomes an `UnreadableImageError`.
    """
    if not encoded:
        raise UnreadableImageError(name, "the file is empty", _CONVERT)
    kind = detect_kind(encoded[:HEAD_BYTES])
    if kind is not None and kind not in READ and not (kind == "HEIC" and can_read_heic()):
        raise UnreadableImageError(name, explain_unread(kind), _CONVERT)
    stripped = strip_metadata(encoded, kind)
    _check_size(name, stripped.size or (0, 0), max_pixels)
    if stripped.excess is not None:
        raise UnreadableImageError(name, stripped.excess, _CONVERT)
    try:
        if stripped.endless:
            image = _decode_endless(stripped.encoded, name, read, max_pixels)
        else:
            formats = ("HEIF",) if kind == "HEIC" else FORMATS
            image = _decode_pixels(stripped.encoded, name, read, max_pixels, formats)
    except UnreadableImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise UnreadableImageError(name, "not a JPEG, PNG, WebP, BMP or TIFF picture", _CONVERT) from error
    except PIL.Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            name, f"more than {MAX_PIXELS // 1_000_000} megapixels", "Save the photo smaller."
        ) from error
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        raise UnreadableImageError(name, f"damaged or truncated ({error})", _CONVERT) from error
    return turn_upright(image, stripped.orientation)


def _decode_pixels(
    encoded: bytes, name: str, read: PixelReader, max_pixels: int, formats: tuple[str, ...] = FORMATS
) -> NDArray[Any]:
    with _open(encoded, formats) as picture:
        _check_size(name, picture.size, max_pixels)
        picture.load()
        return read(picture, encoded)


def _decode_endless(jpeg: bytes, name: str, read: PixelReader, max_pixels: int) -> NDArray[Any]:
    """A JPEG that lost its end marker: whole, if no bytes that could follow would change a pixel."""
    image = _decode_pixels(jpeg + b"\xff\xd9", name, read, max_pixels)
    for guess in (b"\x55", b"\xaa"):
        if not np.array_equal(image, _decode_pixels(jpeg + guess * 512 + b"\xff\xd9", name, read, max_pixels)):
            raise ValueError("the file ends before the picture does")
    return image


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            name,
            f"{width}x{height} pixels are more than {max_pixels / 1_000_000:g} megapixels",
            "Save the photo smaller.",
        )


@cache
def can_read_heic() -> bool:
    """Whether pillow-heif is installed; Pillow itself reads no HEIC."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except Exception:  # built for another Python or Pillow
        return False
    return True


def _open(encoded: bytes, formats: tuple[str, ...]) -> PIL.Image.Image:
    """Read the header. Pillow's own bomb warning is silenced: `MAX_PIXELS` decides, and gives a reason."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PIL.Image.open(io.BytesIO(encoded), formats=formats)


def convert_to_rgb8(picture: PIL.Image.Image) -> Image:
    """The pixels [H,W,3] RGB, alpha laid on white.

    It goes strip by strip: a large picture of another type needs little more room than as RGB.
    """
    if picture.mode == "F":
        raise ValueError("floating-point pixel values, whose range is not known")
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        is_all_rows = bottom - top == height
        rgb[top:bottom] = _convert_strip(picture if is_all_rows else picture.crop((0, top, width, bottom)))
    return rgb


def _convert_strip(picture: PIL.Image.Image) -> Image:
    if picture.mode.startswith("I"):
        # Grey of 16 bits, which Pillow would clip at 255 instead of scaling.
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit pixel values, whose range is not known")
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", coloured.size, "white")
        picture = PIL.Image.alpha_composite(white, coloured)
    return np.asarray(picture.convert("RGB"))
