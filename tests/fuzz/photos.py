"""Photos broken on purpose, the same ones for the same numbers: `python tests/fuzz/photos.py FIRST COUNT` reads them.

Prints one JSON object: how each ended, the seconds of one core that the slowest took, and the peak of memory.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from memory import peak_bytes

from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.faces.folder import read_faces

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "faces"

ENCODINGS: dict[str, dict[str, object]] = {
    "baseline.jpg": {"format": "JPEG", "quality": 90},
    "progressive.jpg": {"format": "JPEG", "progressive": True},
    "described.jpg": {"format": "JPEG", "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\1\0\0\0\0\0\0\0"},
    "cmyk.jpg": {"format": "JPEG", "mode": "CMYK"},
    "plain.png": {"format": "PNG"},
    "palette.png": {"format": "PNG", "mode": "P", "transparency": 3},
    "alpha.png": {"format": "PNG", "mode": "RGBA"},
    "grey16.png": {"format": "PNG", "mode": "I;16"},
    "animated.png": {"format": "PNG", "save_all": True},
    "lossy.webp": {"format": "WEBP"},
    "lossless.webp": {"format": "WEBP", "lossless": True},
    "animated.webp": {"format": "WEBP", "save_all": True},
    "animated.gif": {"format": "GIF", "save_all": True},
    "plain.bmp": {"format": "BMP"},
    "plain.tif": {"format": "TIFF"},
    "lzw.tif": {"format": "TIFF", "compression": "tiff_lzw"},
    "deflate.tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    "jpeg.tif": {"format": "TIFF", "compression": "jpeg"},
    "big.tif": {"format": "TIFF", "big_tiff": True},
    "pages.tif": {"format": "TIFF", "save_all": True},
    "two.mpo": {"format": "MPO", "save_all": True},
}
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 11_000, 0x01000000)
Rng = np.random.Generator


@cache
def whole(sample: int, encoding: str) -> bytes:
    """A sample face in one of `ENCODINGS`."""
    options = dict(ENCODINGS[encoding])
    picture = PIL.Image.open(SAMPLES / f"sample_{sample:03}.jpg").convert("RGB")
    mode = options.pop("mode", "RGB")
    if mode == "I;16":
        picture = PIL.Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode != "RGB":
        picture = picture.convert(str(mode))
    if options.get("save_all"):
        options["append_images"] = [picture.rotate(9), picture.rotate(18)]
    buffer = io.BytesIO()
    picture.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def flipped(data: bytearray, rng: Rng) -> None:
    for at in rng.integers(0, len(data), rng.integers(1, 40)):
        data[at] = rng.integers(256)


def flipped_in_the_header(data: bytearray, rng: Rng) -> None:
    for at in rng.integers(0, min(len(data), 700), rng.integers(1, 6)):
        data[at] = rng.integers(256)


def cut(data: bytearray, rng: Rng) -> None:
    del data[int(rng.integers(1, len(data))) :]


def swapped(data: bytearray, rng: Rng) -> None:
    one, other, size = (int(value) for value in rng.integers(0, len(data) // 2, 3))
    other += len(data) // 2
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def repeated(data: bytearray, rng: Rng) -> None:
    start, size = int(rng.integers(0, len(data))), int(rng.integers(1, 500))
    at = int(rng.integers(0, len(data)))
    data[at:at] = data[start : start + size] * int(rng.integers(1, 40))


def with_an_absurd_number(data: bytearray, rng: Rng) -> None:
    at, wide = int(rng.integers(2, min(len(data), 260) - 4)), rng.random() < 0.5
    value = int(rng.choice(EXTREMES)) & (0xFFFFFFFF if wide else 0xFFFF)
    struct.pack_into(("<" if rng.random() < 0.5 else ">") + ("I" if wide else "H"), data, at, value)


def with_markers(data: bytearray, rng: Rng) -> None:
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(2, len(data)))
        length = int(rng.choice([0, 2, 9, 0xFFFF]))
        data[at:at] = bytes([0xFF, int(rng.integers(0xC0, 0x100))]) + struct.pack(">H", length) + rng.bytes(length % 50)


def with_an_absurd_size(data: bytearray, rng: Rng) -> None:
    """The size in the header of a PNG, with its checksum right, or of a JPEG's frame."""
    width, height = (int(value) for value in rng.choice([1, 9000, 11_000, 60_000, 0x7FFFFFFF, 0], 2))
    if data.startswith(b"\x89PNG"):
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    else:
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"), 2)
        struct.pack_into(">HH", data, min(frame + 5, len(data) - 4), height & 0xFFFF, width & 0xFFFF)


def with_many_scans(data: bytearray, rng: Rng) -> None:
    start = data.rfind(b"\xff\xda")
    if start > 0:
        data[-2:-2] = data[start:-2] * int(rng.integers(1, 4000))


def spliced(data: bytearray, rng: Rng) -> None:
    other = whole(1, str(rng.choice(list(ENCODINGS))))
    at = int(rng.integers(0, len(data)))
    data[at:] = other[int(rng.integers(0, len(other))) :]


MUTATIONS: tuple[Callable[[bytearray, Rng], None], ...] = (
    *(flipped, flipped_in_the_header, cut, swapped, repeated, with_an_absurd_number, with_markers),
    *(with_an_absurd_size, with_many_scans, spliced),
)


def broken(number: int) -> tuple[str, bytes]:
    """A file name, with the right suffix, a wrong one or none, and its content."""
    rng = np.random.default_rng(number)
    encoding = list(ENCODINGS)[number % len(ENCODINGS)]
    data = bytearray(whole(int(rng.integers(1, 9)), encoding))
    for mutation in rng.choice(len(MUTATIONS), int(rng.choice([1, 1, 2, 3]))):
        if len(data) > 600:
            MUTATIONS[mutation](data, rng)
    suffix = str(rng.choice([Path(encoding).suffix] * 4 + [".jpg", ".png", ".jfif", ""]))
    return f"{number:05}_{Path(encoding).stem}{suffix}", bytes(data)


def read(first: int, count: int) -> dict[str, object]:
    """Read ``count`` broken photos as one folder: how each ended, seconds of one core at most, GiB at the peak."""
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        names = []
        for number in range(first, first + count):
            name, data = broken(number)
            names.append(name)
            (Path(folder) / name).write_bytes(data)
        (Path(folder) / "whole.jpg").write_bytes(whole(1, "baseline.jpg"))
        last = time.process_time()

        def tick(stage: str, done: int, total: int) -> None:
            nonlocal last
            times.append(time.process_time() - last)
            last += times[-1]

        faces = read_faces(
            Path(folder), template="arcface_128", size=64, embedder=DlibEmbedder(), keep_copies=True, progress=tick
        )
        crops = len(faces.crops[:])
    reasons = {skip.file: skip.reason for skip in faces.skipped}
    return {
        "faces": len(faces) - 1,
        "cut_again": crops - 1,
        "skipped": dict(Counter(skip.kind for skip in faces.skipped)),
        "unrecognised": sorted(set(names) - set(faces.files) - set(reasons)),
        "without_reason": [file for file, reason in reasons.items() if not reason.strip()],
        "slowest_cpu_s": max(times),
        "peak_gib": peak_bytes() / (1 << 30),
    }


if __name__ == "__main__":
    json.dump(read(*map(int, sys.argv[1:3])), sys.stdout)
