"""Image files -> upright RGB pixels, without trusting the file.

Pillow rather than OpenCV: it tells the size before it decodes, and reads orientation, CMYK, palettes and alpha right.
"""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from trt_facefusion.errors import FacesError
from trt_facefusion.types import Image

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 256 << 20

# Only what photos come in: every further parser is one more that a hostile file can reach.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

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


def read_image(path: Path) -> Image:
    """The picture in ``path`` as [H,W,3] uint8 RGB; see `decode_image`.

    Raises:
        ImageTooLargeError: more than 256 MiB of file or 100 megapixels of picture.
        UnreadableImageError: no such file, no right to read it, or not a readable picture.
    """
    return decode_image(read_bytes(path), path.name)


def read_bytes(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        ImageTooLargeError: more than 256 MiB.
        UnreadableImageError: no such file, or no right to read it.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise ImageTooLargeError(
                path.name,
                f"the file has {size_bytes >> 20} MiB; at most {MAX_FILE_BYTES >> 20} MiB are read",
                "Save the photo smaller.",
            )
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(
            path.name, str(error.strerror or error), "Check the name and the rights of the file."
        ) from error


def decode_image(data: bytes, name: str = "image") -> Image:
    """An encoded picture as [H,W,3] uint8 RGB: turned upright by its EXIF, 16 bits scaled to 8, alpha laid on white.

    Raises:
        ImageTooLargeError: the header promises more than 100 megapixels (nothing has been decoded then).
        UnreadableImageError: not JPEG, PNG, WebP, BMP or TIFF, damaged or truncated, or of a type without a range.
    """
    if not data:
        raise UnreadableImageError(name, "the file is empty", _CONVERT)
    try:
        with _open(data) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ImageTooLargeError(
                    name,
                    f"{width}x{height} pixels are more than {MAX_PIXELS // 1_000_000} megapixels",
                    "Save the photo smaller.",
                )
            picture.load()
            return _to_rgb8(PIL.ImageOps.exif_transpose(picture))
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


def _open(data: bytes) -> PIL.Image.Image:
    """Read the header. Pillow's own bomb warning is silenced: `MAX_PIXELS` decides, and gives a reason."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PIL.Image.open(io.BytesIO(data), formats=FORMATS)


def _to_rgb8(picture: PIL.Image.Image) -> Image:
    if picture.mode.startswith("I"):
        # Grey of 16 bits, which Pillow would clip at 255 instead of scaling.
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit pixel values, whose range is not known")
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "F":
        raise ValueError("floating-point pixel values, whose range is not known")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", coloured.size, "white")
        picture = PIL.Image.alpha_composite(white, coloured)
    return np.array(picture.convert("RGB"))
