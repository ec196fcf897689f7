"""How a photo must be turned, read from EXIF or XMP that may be broken everywhere else."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TAG = 0x112
_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


def read_exif_orientation(block: bytes) -> int | None:
    """The orientation, 1 to 8, in an EXIF block with or without its ``Exif`` prefix; None where none can be read."""
    while block.startswith(b"Exif\0"):
        block = block[6:]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return None
    first = int(struct.unpack_from(order + "I", block, 4)[0])
    if first + 2 > len(block):
        first = 8  # where nearly every writer puts it
    number = int(struct.unpack_from(order + "H", block, first)[0]) if first + 2 <= len(block) else 0
    for start in range(first + 2, min(first + 2 + 12 * number, len(block) - 11), 12):
        if struct.unpack_from(order + "H", block, start)[0] == _TAG:
            return read_ifd_orientation(block[start : start + 12], order)
    return None


def read_ifd_orientation(line: bytes, order: str) -> int | None:
    """The value, 1 to 8, of an orientation entry (12 bytes, in BigTIFF 20) of any type; ``order`` is ``<`` or ``>``."""
    packed = line[-4:] if len(line) == 12 else line[12:16]
    code = _INTEGERS.get(struct.unpack_from(order + "H", line, 2)[0])
    number = int(struct.unpack_from(order + code, packed)[0]) if code else 0
    if 1 <= number <= 8:
        return number
    # Of another type or byte order than announced: one digit, whichever of the four bytes it is in.
    digits = [byte - 48 if 49 <= byte <= 56 else byte for byte in packed if byte]
    return digits[0] if len(digits) == 1 and 1 <= digits[0] <= 8 else None


def read_xmp_orientation(packet: bytes) -> int | None:
    """The orientation, 1 to 8, in an XMP packet, or None."""
    match = _XMP.search(packet)
    return int(match[1]) if match else None


def turn_upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """``image`` [H,W,C] turned and mirrored as ``orientation``, 1 to 8, says."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    across, down = orientation in {2, 3, 6, 7}, orientation in {3, 4, 7, 8}
    turned = image[:: -1 if down else 1, :: -1 if across else 1]
    return np.ascontiguousarray(turned)
