"""What a photo carries beside its pixels is taken off before a decoder sees it; of it only the orientation is used.

Cameras, phones and editors write EXIF, XMP, colour profiles, texts and thumbnails of every degree of brokenness. A
decoder that parses them refuses the photo, or unpacks text bombs, for something that is never asked for. So JPEG, PNG
and TIFF files are rebuilt from what describes their pixels. What cannot be walked through is handed on as it is.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from trt_facefusion.faces.orientation import read_exif_orientation, read_ifd_orientation, read_xmp_orientation

MAX_SCANNED_PIXELS = 2_000_000_000
"""Scans times pixels of a JPEG. Encoders write 1 to 20 scans, each of which goes over the whole picture: thousands hold
the reader for minutes, and so would 100 of 100 megapixels."""
_LEAST_PIXELS = 500_000
_MAX_PARTS = 100_000
"""Segments or chunks; ordinary files have some hundred."""
_MAX_TEXT = 1 << 20

# Deflate packs 1032 bytes into one at best, and Huffman coding a block of 64 pixels into one bit.
_DEFLATE_BEST = 1032
_PIXELS_PER_BYTE = 512


class StrippedImage(NamedTuple):
    """A picture without its metadata.

    ``orientation`` is 1 to 8 as EXIF numbers them. ``excess`` says why it must not be decoded, or is None. ``size`` is
    width and height where the header was read. ``endless`` is a JPEG whose end marker is missing.
    """

    data: bytes
    orientation: int = 1
    excess: str | None = None
    size: tuple[int, int] | None = None
    endless: bool = False


def strip_metadata(data: bytes, kind: str | None) -> StrippedImage:
    """``data``, a picture of ``kind`` (`kinds.detect_kind`), without its metadata; never raises on what is broken."""
    strip = {"JPEG": _strip_jpeg, "PNG": _strip_png, "WebP": _read_webp, "TIFF": _strip_tiff, "BMP": _read_bmp}.get(
        kind or ""
    )
    if strip is None:
        return StrippedImage(data)
    try:
        return strip(data)
    except (struct.error, IndexError, OverflowError):  # the last: places beyond what an index can be
        return StrippedImage(data)


# Any marker that may follow entropy-coded data: not a stuffed FF, a restart or a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


def _strip_jpeg(data: bytes) -> StrippedImage:
    kept, exif, xmp = [data[:2]], b"", b""
    scans, parts, size, frame, at = 0, 0, (0, 0), 0, 2
    endless = False
    while match := _MARKER.search(data, at):
        start, marker, parts = match.start(), data[match.start() + 1], parts + 1
        kept.append(data[at:start])
        length = struct.unpack_from(">H", data, start + 2)[0] if start + 4 <= len(data) else 0
        at = start + 2 + length
        if marker == 0xD9:
            kept.append(data[start : start + 2])  # what follows is another picture, a film or nothing
            break
        if length < 2 or at > len(data):
            kept.append(data[start:])
            break
        body = data[start + 4 : at]
        if not scans and (0xE0 <= marker <= 0xEF or marker == 0xFE):
            exif = exif or (body if body.startswith(b"Exif\0") and marker == 0xE1 else b"")
            xmp = xmp or (body if body.startswith(b"http://ns.adobe.com/xap/1.0/") else b"")
            kept.append(_keep_colour_segment(data[start:at], marker, body))
        else:
            kept.append(data[start:at])
        scans += marker == 0xDA
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC} and len(body) >= 5:
            size, frame = (int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")), marker
        if parts > _MAX_PARTS:
            return StrippedImage(b"", excess=f"more than {_MAX_PARTS:,} segments")
    else:
        kept.append(data[at:].rstrip(b"\xff"))
        endless = scans > 0 and frame in {0xC0, 0xC1}
    pixels = size[0] * size[1]
    excess = None
    if scans * max(pixels, _LEAST_PIXELS) > MAX_SCANNED_PIXELS and scans > 1:
        excess = f"{scans:,} scans of {size[0]}x{size[1]} pixels would take too long: save it again as an ordinary JPEG"
    elif pixels > len(data) * _PIXELS_PER_BYTE and frame < 0xC8:
        excess = _explain_too_short(len(data), *size)
    return StrippedImage(
        b"".join(kept), read_exif_orientation(exif) or read_xmp_orientation(xmp) or 1, excess, size, endless
    )


def _keep_colour_segment(segment: bytes, marker: int, body: bytes) -> bytes:
    """The application segments that say which colours the components are; nothing of any other."""
    if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        return _JFIF
    return segment if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12 else b""


def _explain_too_short(count: int, width: int, height: int) -> str:
    return f"damaged or truncated: {count:,} bytes cannot hold {width}x{height} pixels"


def _strip_png(data: bytes) -> StrippedImage:
    header: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    texts: list[tuple[bytes, bytes]] = []
    exif, at, parts = b"", 8, 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body, end, parts = data[at + 8 : at + 8 + length], at + 12 + length, parts + 1
        if name == b"IEND":
            break
        if name == b"IDAT":
            pixels.append(body)
        elif name in {b"IHDR", b"PLTE"} or (name == b"tRNS" and data[end - 4 : end] == _compute_checksum(name, body)):
            header.setdefault(name, data[at:end])
        elif name == b"eXIf":
            exif = exif or body
        elif name in {b"tEXt", b"zTXt", b"iTXt"} and len(texts) < 64:
            texts.append((name, body))
        at = end
        if parts > _MAX_PARTS:
            return StrippedImage(b"", excess=f"more than {_MAX_PARTS:,} chunks")
    packed = b"".join(pixels)
    width, height, depth, colours = struct.unpack_from(">IIBB", header.get(b"IHDR", b""), 8)
    kept = [data[:8], *(header[name] for name in (b"IHDR", b"PLTE", b"tRNS") if name in header)]
    if pixels:
        kept.append(struct.pack(">I", len(packed)) + b"IDAT" + packed + _compute_checksum(b"IDAT", packed))
    kept.append(b"\0\0\0\0IEND" + _compute_checksum(b"IEND", b""))
    row = (width * depth * {2: 3, 4: 2, 6: 4}.get(colours, 1) + 7) // 8 + 1
    excess = (
        _explain_too_short(len(packed), width, height) if row * height > (len(packed) + 64) * _DEFLATE_BEST else None
    )
    turned = read_exif_orientation(exif)
    for name, body in texts:
        turned = turned or _read_text_orientation(name, body)
    return StrippedImage(b"".join(kept), turned or 1, excess, (width, height))


def _compute_checksum(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(name + body))


def _read_text_orientation(name: bytes, body: bytes) -> int | None:
    """The orientation in a text chunk: XMP, or EXIF as ImageMagick writes it, in hexadecimal."""
    key, _, text = body.partition(b"\0")
    if key not in {b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1"}:
        return None
    try:
        if name == b"iTXt":
            packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
        else:
            packed, text = name == b"zTXt", text[1:] if name == b"zTXt" else text
        if packed:
            text = zlib.decompressobj().decompress(text, _MAX_TEXT)
        if key.startswith(b"XML"):
            return read_xmp_orientation(text)
        return read_exif_orientation(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
    except (zlib.error, ValueError):
        return None


def _read_webp(data: bytes) -> StrippedImage:
    found: dict[bytes, bytes] = {}
    at, parts = 12, 0
    while at + 8 <= len(data) and parts < _MAX_PARTS:
        name, length = struct.unpack_from("<4sI", data, at)
        found.setdefault(name, data[at + 8 : at + 8 + length] if name != b"ANMF" else b"")
        at, parts = at + 8 + length + length % 2, parts + 1
    size = None
    if b"VP8X" in found:
        canvas = found[b"VP8X"]
        size = int.from_bytes(canvas[4:7], "little") + 1, int.from_bytes(canvas[7:10], "little") + 1
    elif b"VP8L" in found:
        packed = int.from_bytes(found[b"VP8L"][1:5], "little")
        size = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif b"VP8 " in found:
        width, height = struct.unpack_from("<HH", found[b"VP8 "], 6)
        size = width & 0x3FFF, height & 0x3FFF
    turned = read_exif_orientation(found.get(b"EXIF", b"")) or read_xmp_orientation(found.get(b"XMP ", b""))
    return StrippedImage(data, turned or 1, None, size)


# The tags of a TIFF that its pixels depend on; all others, and further pages, are left out.
_PIXEL_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325}
    | {332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}
)


def _strip_tiff(data: bytes) -> StrippedImage:
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    entry, count, word = (20, "Q", 8) if big else (12, "H", 4)
    offset = int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])
    start = offset + struct.calcsize(order + count)
    number = min(int(struct.unpack_from(order + count, data, offset)[0]), (len(data) - start) // entry, _MAX_PARTS)
    kept, turned, xmp = [], None, b""
    for index in range(number):
        line = data[start + index * entry : start + (index + 1) * entry]
        tag = int(struct.unpack_from(order + "H", line)[0])
        if tag in _PIXEL_TAGS:
            kept.append(line)
        elif tag == 0x112:
            turned = read_ifd_orientation(line, order)
        elif tag == 700:
            length, place = struct.unpack_from(order + ("QQ" if big else "II"), line, 4)
            xmp = data[place : place + min(length, _MAX_TEXT)]
    directory = struct.pack(order + count, len(kept)) + b"".join(kept) + bytes(word)
    if not kept or offset + len(directory) > len(data) + word:
        return StrippedImage(data)
    rebuilt = data[:offset] + directory + data[offset + len(directory) :]
    return StrippedImage(rebuilt, turned or read_xmp_orientation(xmp) or 1)


def _read_bmp(data: bytes) -> StrippedImage:
    if data[14:18] == b"\x0c\0\0\0":
        return StrippedImage(data)
    width, height, _, _, packing = struct.unpack_from("<iiHHI", data, 18)
    excess = None
    if packing in {1, 2} and abs(width * height) > 4_000_000:  # run lengths are unpacked one by one
        excess = "a packed BMP of more than 4 megapixels would take too long: save it as JPEG or PNG"
    return StrippedImage(data, 1, excess, (abs(width), abs(height)))
