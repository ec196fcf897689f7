"""Image files -> upright RGB pixels, without trusting the file.

Pillow rather than OpenCV: it tells the size before it decodes, and reads CMYK, palettes and alpha right. It gets the
pixels only: what else is in a file is taken off before (`metadata`).
"""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import stat
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.kinds import HEAD_BYTES, READ, detect_kind, explain_unread
from trt_facefusion.faces.metadata import strip_metadata
from trt_facefusion.faces.orientation import turn_upright
from trt_facefusion.types import Image

MAX_PIXELS = 128_000_000
MAX_FILE_BYTES = 256 << 20

# Only what photos come in: every further parser is one more that a hostile file can reach.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

_STRIP_PIXELS = 4_000_000
_CONVERT = "Save it again as JPEG or PNG with another program, or take it out of the folder."
_warnings_lock = threading.Lock()


class UnreadableImageError(FacesError):
    """A file is not a picture that can be read; ``reason`` says why without the name."""

    kind = "image"

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"{name}: {reason}", remedy)
        self.reason = reason


class ImageTooLargeError(UnreadableImageError):
    """A file, or the picture that it would unpack to, is too large."""


class NotAFileError(UnreadableImageError):
    """A name belongs to a pipe, a device, a folder, or a link to nothing: it was not opened."""


def read_image(path: Path) -> Image:
    """The picture in ``path`` as [H,W,3] uint8 RGB; see `decode_image`.

    Raises:
        ImageTooLargeError: more than 256 MiB of file or 128 megapixels of picture.
        UnreadableImageError: no such file, no right to read it, or not a readable picture.
    """
    return decode_image(read_bytes(path), path.name)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; pipes, devices and sockets, which may wait for ever, are not opened. Raises OSError."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        # Without O_NONBLOCK a pipe that took the file's name since would hold this process.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = os.fdopen(handle, "rb")
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return file
        file.close()
    what = "a directory" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
    raise OSError(f"not a regular file but {what}")


def read_bytes(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        ImageTooLargeError: more than 256 MiB.
        NotAFileError: not a regular file, or a link to none.
        UnreadableImageError: no such file, or no right to read it.
    """
    try:
        with open_regular(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            data = file.read(MAX_FILE_BYTES + 1) if size_bytes <= MAX_FILE_BYTES else b""
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        special = isinstance(error, OSError) and error.errno is None
        if special or (getattr(error, "errno", 0) in {errno.ENOENT, errno.ELOOP} and path.is_symlink()):
            reason = reason if special else f"a link that leads to no file ({reason})"
            raise NotAFileError(path.name, reason, "Take it out of the folder.") from error
        raise UnreadableImageError(path.name, reason, "Check the name and the rights of the file.") from error
    if max(size_bytes, len(data)) > MAX_FILE_BYTES:
        raise ImageTooLargeError(
            path.name,
            f"the file has {size_bytes >> 20} MiB; at most {MAX_FILE_BYTES >> 20} MiB are read",
            "Save the photo smaller.",
        )
    return data


def decode_image(data: bytes, name: str = "image") -> Image:
    """An encoded picture as [H,W,3] uint8 RGB: turned upright by its EXIF, 16 bits scaled to 8, alpha laid on white.

    Nothing but the pixels decides whether it can be read. Of several frames or pages the first is taken.

    Raises:
        ImageTooLargeError: the header promises more than 128 megapixels (nothing has been decoded then).
        UnreadableImageError: not JPEG, PNG, WebP, BMP or TIFF, damaged or truncated, of a type without a range, or
            packed such that it would take minutes.
    """
    if not data:
        raise UnreadableImageError(name, "the file is empty", _CONVERT)
    kind = detect_kind(data[:HEAD_BYTES])
    if kind is not None and kind not in READ and not (kind == "HEIC" and can_read_heic()):
        raise UnreadableImageError(name, explain_unread(kind), _CONVERT)
    found = strip_metadata(data, kind)
    _check_size(name, *(found.size or (0, 0)))
    if found.excess is not None:
        raise UnreadableImageError(name, found.excess, _CONVERT)
    try:
        if found.endless:
            image = _decode_endless(found.data, name)
        else:
            image = _decode_pixels(found.data, name, ("HEIF",) if kind == "HEIC" else FORMATS)
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
    return turn_upright(image, found.orientation)


def _decode_pixels(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> Image:
    with _open(data, formats) as picture:
        _check_size(name, *picture.size)
        picture.load()
        return _convert_to_rgb8(picture)


def _decode_endless(jpeg: bytes, name: str) -> Image:
    """A JPEG that lost its end marker: whole, if no bytes that could follow would change a pixel."""
    image = _decode_pixels(jpeg + b"\xff\xd9", name)
    for guess in (b"\x55", b"\xaa"):
        if not np.array_equal(image, _decode_pixels(jpeg + guess * 512 + b"\xff\xd9", name)):
            raise ValueError("the file ends before the picture does")
    return image


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            name,
            f"{width}x{height} pixels are more than {MAX_PIXELS // 1_000_000} megapixels",
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


def _open(data: bytes, formats: tuple[str, ...]) -> PIL.Image.Image:
    """Read the header. Pillow's own bomb warning is silenced: `MAX_PIXELS` decides, and gives a reason."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PIL.Image.open(io.BytesIO(data), formats=formats)


def _convert_to_rgb8(picture: PIL.Image.Image) -> Image:
    """The pixels, strip by strip: a large picture of another type needs little more room than as RGB."""
    if picture.mode == "F":
        raise ValueError("floating-point pixel values, whose range is not known")
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        whole = bottom - top == height
        rgb[top:bottom] = _convert_strip(picture if whole else picture.crop((0, top, width, bottom)))
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
