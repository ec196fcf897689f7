"""Photos as files: written in their own channels and depth, without loss where the format has none, and marked.

Of what the file carried beside its pixels only the colour profile is kept: it says which colours the numbers mean. The
rest (camera, place, thumbnails of the face that was there) describes another picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError
from trt_facefusion.swap.photo import CMYK, GREY, Photo, scale_to_8
from trt_facefusion.types import Note, drop_note

JPEG, PNG, WEBP, BMP, TIFF = "JPEG", "PNG", "WebP", "BMP", "TIFF"
_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), JPEG),
    ".png": PNG,
    ".webp": WEBP,
    ".bmp": BMP,
    **dict.fromkeys((".tif", ".tiff"), TIFF),
}
_QUALITY = 95
_WIDEST = {JPEG: 65535, WEBP: 16383}
_EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131
_XMP_KEY = "XML:com.adobe.xmp"
_TIFF_XMP = 700


@dataclass(frozen=True)
class Mark:
    """What a file says of itself: a ``description`` for people, the ``software``, an ``xmp`` packet for machines."""

    description: str
    software: str
    xmp: bytes


def find_kind(path: Path) -> str:
    """The format that the suffix of ``path`` names. Raises BadInputError where it names none that is written."""
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise BadInputError(
            f"{path.name}: pictures of the kind {path.suffix or 'without a suffix'} are not written",
            f"name a file that ends in {', '.join(sorted(_SUFFIXES))}",
        )
    return kind


def encode_photo(photo: Photo, kind: str, mark: Mark | None = None, note: Note = drop_note) -> bytes:
    """``photo`` as a file of ``kind``; ``note`` is told what that format cannot hold.

    Raises:
        BadInputError: the photo is larger than the format holds.
    """
    height, width = photo.pixels.shape[:2]
    if max(height, width) > _WIDEST.get(kind, 1 << 30):
        raise BadInputError(f"{kind} holds at most {_WIDEST[kind]} pixels a side, not {width}x{height}", "write a PNG")
    if mark is not None and kind == BMP:
        note("warning: BMP has no place for a mark, so nothing in the file says that it was generated")
    if kind == TIFF:
        return _encode_tiff(photo, mark)
    if kind == PNG and photo.full > 255 and photo.channels != CMYK:
        return _encode_deep_png(photo, mark)
    return _encode_by_pillow(photo, kind, mark, note)


def _encode_by_pillow(photo: Photo, kind: str, mark: Mark | None, note: Note) -> bytes:
    picture = _to_pillow(photo, kind, note)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"icc_profile": photo.profile} if photo.profile and kind != BMP else {}
    if photo.channels == CMYK and picture.mode != "CMYK":
        options.pop("icc_profile", None)  # it speaks of inks
    picture.save(buffer, kind.upper(), **options, **_choose_coding(photo, kind, picture.mode), **_mark(kind, mark))
    return buffer.getvalue()


def _to_pillow(photo: Photo, kind: str, note: Note) -> PIL.Image.Image:
    """The photo in a mode that ``kind`` holds."""
    if photo.full > 255:
        note(f"warning: {kind} holds 8 bits of the photo's 16: write a PNG or TIFF to keep them")
    keeps_alpha = photo.alpha is not None and kind in {PNG, WEBP}
    if photo.alpha is not None and not keeps_alpha and photo.alpha.min() < photo.full:
        note(f"warning: {kind} holds no transparency, so white is laid behind: write a PNG, WebP or TIFF to keep it")
    if photo.channels == CMYK and kind == JPEG:
        return PIL.Image.fromarray(scale_to_8(photo.pixels), "CMYK")
    whole = slice(None)
    grey = photo.channels == GREY and kind != WEBP
    rgb = photo.region_rgb8(whole, whole) if keeps_alpha else photo.rgb8
    colours = rgb[..., :1] if grey else rgb
    if keeps_alpha and photo.alpha is not None:
        colours = np.concatenate([colours, scale_to_8(photo.alpha)[..., None]], axis=2)
    return PIL.Image.fromarray(colours[..., 0] if colours.shape[2] == 1 else colours, _MODES[colours.shape[2]])


_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def _choose_coding(photo: Photo, kind: str, mode: str) -> dict[str, Any]:
    """Without loss where that goes, else as little as the original had."""
    if kind == WEBP:
        lossless = photo.kind != WEBP or photo.lossless
        return {"lossless": lossless, "quality": 75 if lossless else _QUALITY, "method": 2, "exact": True}
    if kind == PNG:
        return {"compress_level": 4}
    if kind != JPEG:
        return {}
    tables = photo.tables if photo.kind == JPEG else None
    if tables is None or tables.sampling < 0 or mode == "CMYK" or not _are_baseline(tables.quantization.values()):
        return {"quality": _QUALITY, **({} if mode == "L" else {"subsampling": 0})}
    return {"qtables": {n: list(t) for n, t in tables.quantization.items()}, "subsampling": tables.sampling}


def _are_baseline(tables: Any) -> bool:
    return all(len(table) == 64 and min(table) > 0 and max(table) < 256 for table in tables)


def _mark(kind: str, mark: Mark | None) -> dict[str, Any]:
    if mark is None or kind == BMP:
        return {}
    exif = PIL.Image.Exif()
    exif[_EXIF_DESCRIPTION], exif[_EXIF_SOFTWARE] = mark.description, mark.software
    if kind != PNG:
        return {"exif": exif.tobytes(), "xmp": mark.xmp}
    texts = PIL.PngImagePlugin.PngInfo()
    for name, text in _list_png_texts(mark):
        texts.add_itxt(name, text) if name == _XMP_KEY else texts.add_text(name, text)
    return {"exif": exif.tobytes(), "pnginfo": texts}


def _list_png_texts(mark: Mark) -> list[tuple[str, str]]:
    return [("Software", mark.software), ("Description", mark.description), (_XMP_KEY, mark.xmp.decode())]


def _encode_deep_png(photo: Photo, mark: Mark | None) -> bytes:
    """16 bits, by OpenCV: Pillow writes none in colour."""
    pixels = _stack_alpha(photo)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[2])
    bgr = np.ascontiguousarray(pixels if order is None else pixels[..., order])
    done, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise BadInputError("OpenCV cannot write the photo as a PNG of 16 bits", "write a TIFF")
    chunks = []
    if photo.profile and not (photo.alpha is not None and photo.channels == GREY):
        chunks.append(_make_chunk(b"iCCP", b"profile\0\0" + zlib.compress(photo.profile)))
    for name, text in _list_png_texts(mark) if mark is not None else []:
        chunks.append(_make_chunk(b"iTXt", name.encode("latin-1") + b"\0\0\0\0\0" + text.encode()))
    file: bytes = encoded.tobytes()
    behind_header = 8 + 25
    return file[:behind_header] + b"".join(chunks) + file[behind_header:]


def _stack_alpha(photo: Photo) -> NDArray[Any]:
    """All channels [H,W,C], alpha last. Grey of 16 bits with alpha becomes colour, which shows the same and is read."""
    if photo.alpha is None:
        return photo.pixels
    colours = photo.pixels
    if photo.channels == GREY and photo.full > 255:
        colours = np.repeat(colours, 3, axis=2)
    return np.concatenate([colours, photo.alpha[..., None]], axis=2)


def _make_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _encode_tiff(photo: Photo, mark: Mark | None) -> bytes:
    import tifffile

    pixels = _stack_alpha(photo)
    colours = pixels.shape[2] - (photo.alpha is not None)
    options: dict[str, Any] = {"extrasamples": ["unassalpha"]} if photo.alpha is not None else {}
    if pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    else:
        options["planarconfig"] = "contig"
    photometric = {GREY: "minisblack", CMYK: "separated"}.get(colours, "rgb")
    if mark is not None:
        options |= {"description": mark.description, "software": mark.software}
        options["extratags"] = [(_TIFF_XMP, 1, len(mark.xmp), mark.xmp, True)]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels,
        photometric=photometric,
        compression="adobe_deflate",
        iccprofile=photo.profile,
        metadata=None,
        **{"software": False, **options},
    )
    return buffer.getvalue()
