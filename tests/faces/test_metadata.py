"""Nothing but the pixels decides whether a photo is read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trt_facefusion.faces.image_file import UnreadableImageError

from trt_facefusion.faces.decode import decode_image
from trt_facefusion.faces.kinds import detect_kind
from trt_facefusion.faces.metadata import strip_metadata
from trt_facefusion.faces.orientation import read_exif_orientation

TURNED = 6


def picture() -> PIL.Image.Image:
    y, x = np.mgrid[0:24, 0:40]
    return PIL.Image.fromarray(np.stack([x * 6, y * 10, 255 - x * 3], axis=2).astype(np.uint8))


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, kind, **options)
    return buffer.getvalue()


def upright(data: bytes) -> np.ndarray:
    """The pixels without metadata, turned as orientation 6 says."""
    return np.rot90(np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")), -1)


def with_segment(body: bytes, marker: int = 0xE1) -> bytes:
    plain = encoded("JPEG")
    return plain[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + plain[2:]


def exif(*entries: tuple[int, int, int, bytes], order: str = "<", tail: bytes = b"") -> bytes:
    """An EXIF block whose first directory holds ``entries`` (tag, type, count, four bytes of value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    lines = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries)) + lines + bytes(4) + tail


SIX = (0x112, 3, 1, struct.pack("<HH", TURNED, 0))
SUB_IFD = 8 + 2 + 24 + 4
BLOCKS = {
    "signed altitude": exif(
        SIX,
        (0x8825, 4, 1, struct.pack("<I", SUB_IFD)),
        tail=struct.pack("<HHHII", 1, 6, 10, 1, SUB_IFD + 18) + bytes(4) + struct.pack("<ii", -3, 2),
    ),
    "a directory that is not there": exif(SIX, (0x8769, 4, 1, struct.pack("<I", 999_999))),
    "a directory that contains itself": exif(SIX, (0x8769, 4, 1, struct.pack("<I", 8))),
    "a type that does not exist": exif(SIX, (0x9999, 77, 1, b"abcd")),
    "an absurd count": exif(SIX, (0x010F, 2, 0xFFFFFFFF, struct.pack("<I", 8))),
    "a zero denominator": exif(SIX, (0x011A, 5, 1, struct.pack("<I", 38)), tail=bytes(8)),
    "more entries than there are": exif(SIX)[:14] + b"\xff\xff" + exif(SIX)[16:],
    "orientation as a long": exif((0x112, 4, 1, struct.pack("<I", TURNED))),
    "orientation as a byte": exif((0x112, 1, 1, b"\x06\0\0\0")),
    "orientation as text": exif((0x112, 2, 2, b"6\0\0\0")),
    "orientation in the other byte order": exif((0x112, 3, 1, b"\0\x06\0\0")),
    "big-endian": exif((0x112, 3, 1, struct.pack(">HH", TURNED, 0)), order=">"),
    "a wrong offset of the first directory": exif(SIX)[:10] + b"\xff\xff\0\0" + exif(SIX)[14:],
    "the prefix twice": b"Exif\0\0" + exif(SIX),
    "huge": exif(SIX, tail=bytes(60_000)),
    "XMP": b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>',
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_photo_with_odd_exif_is_read_and_turned(name: str) -> None:
    assert np.array_equal(decode_image(with_segment(BLOCKS[name])), upright(encoded("JPEG")))


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE1, exif()),
        (0xE1, exif(SIX)[:20]),
        (0xE1, b"Exif\0\0garbage"),
        (0xE1, exif((0x112, 3, 1, struct.pack("<HH", 99, 0)))),
        (0xE0, b"JFIF\0"),
        (0xE2, b"ICC_PROFILE\0\x09\x01broken"),
        (0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff"),
        (0xEE, b"Adobe"),
        (0xFE, b"\xff" * 50),
    ],
)
def test_broken_metadata_without_an_orientation_leaves_the_pixels(marker: int, body: bytes) -> None:
    assert np.array_equal(decode_image(with_segment(body, marker)), np.rot90(upright(encoded("JPEG"))))


def chunk(name: bytes, body: bytes, right: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ (not right))


HEX = b"\nexif\n%8d\n%s\n" % (len(exif(SIX)), exif(SIX).hex().encode())


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(
    ("name", "body"),
    [
        (b"eXIf", exif(SIX)[6:]),
        (b"eXIf", exif(SIX)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6</tiff:Orientation>"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<tiff:Orientation>6</tiff:Orientation>")),
        (b"tEXt", b"Raw profile type exif\0" + HEX),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX)),
    ],
)
def test_a_png_is_turned_by_every_kind_of_chunk_even_with_a_wrong_checksum(
    name: bytes, body: bytes, right: bool
) -> None:
    plain = encoded("PNG")
    assert np.array_equal(decode_image(plain[:33] + chunk(name, body, right) + plain[33:]), upright(plain))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"name\0\0broken"),
        chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"gAMA", b"", right=False),
        chunk(b"tRNS", b"\0" * 6, right=False),
        chunk(b"acTL", b"\xff" * 8),
        chunk(b"PRIV", b"what a critical chunk"),
    ],
)
def test_chunks_beside_the_pixels_cost_no_photo(extra: bytes) -> None:
    plain = encoded("PNG")
    assert np.array_equal(decode_image(plain[:33] + extra + plain[33:]), np.asarray(picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_kinds_are_turned_as_pillow_turns_them(kind: str, orientation: int) -> None:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    data = encoded(kind, exif=tags)
    assert np.array_equal(decode_image(data), PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_with_broken_tags_keeps_its_pixels(order: str) -> None:
    buffer = io.BytesIO()
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II" if order == "<" else b"MM")
    tags[0x112] = TURNED
    tags[0x8825] = 7  # a directory of positions in the middle of the header
    tags[34675] = b"not a profile"
    picture().save(buffer, "TIFF", tiffinfo=tags)
    assert np.array_equal(decode_image(buffer.getvalue()), np.rot90(np.asarray(picture()), -1))


def test_only_the_first_of_several_pictures_counts() -> None:
    other = PIL.Image.new("RGB", (9, 9))
    first = np.asarray(picture())
    for kind, options in (("MPO", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encoded(kind, save_all=True, append_images=[other.resize((40, 24))] * 3, **options)
        found = decode_image(data)
        assert found.shape == first.shape
        assert np.array_equal(found, first) or kind == "MPO"


def test_trailing_bytes_and_a_lost_end_marker_cost_nothing() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        plain = encoded(kind)
        whole = decode_image(plain)
        assert np.array_equal(decode_image(plain + b"\xff\xd8film" * 1000), whole)
        if kind != "WEBP":
            assert np.array_equal(decode_image(plain[: -12 if kind == "PNG" else -2]), whole)


def test_a_truncated_photo_is_left_out_and_says_so() -> None:
    big = io.BytesIO()
    picture().resize((400, 400)).save(big, "JPEG")
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode_image(big.getvalue()[:-900])


def test_a_jpeg_of_thousands_of_scans_is_left_out_before_it_is_decoded() -> None:
    plain = io.BytesIO()
    picture().resize((800, 800)).save(plain, "JPEG", progressive=True)
    data = plain.getvalue()
    last = data.rindex(b"\xff\xda")
    decode_image(data)
    hostile = data[:last] + data[last:-2] * 4000 + data[-2:]
    with pytest.raises(UnreadableImageError, match=r"4,0\d\d scans of 800x800 pixels would take too long"):
        decode_image(hostile)


def test_bytes_that_cannot_hold_their_pixels_are_not_decoded() -> None:
    tiny = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 16, 6, 0, 0, 0))
    with pytest.raises(UnreadableImageError, match="cannot hold 9000x9000 pixels"):
        decode_image(tiny + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))
    jpeg = encoded("JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    with pytest.raises(UnreadableImageError, match="cannot hold 9000x9000 pixels"):
        decode_image(jpeg[:frame] + struct.pack(">HH", 9000, 9000) + jpeg[frame + 4 :])


def test_kinds_are_told_by_their_first_bytes(shared_faces: Path) -> None:
    assert detect_kind(b"BM is a text that begins like a picture, and") is None
    assert detect_kind(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == "HEIC"
    assert detect_kind(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    assert detect_kind(b"\0\0\0\x14ftypqt  \0\0\0\0qt  ") is None
    assert {detect_kind(path.read_bytes()[:32]) for path in (shared_faces / "eval").iterdir()} <= {"JPEG", "PNG"}


def test_whole_photos_decode_as_pillow_alone_decodes_them(shared_faces: Path) -> None:
    for path in sorted((shared_faces / "hard").iterdir()):
        if path.suffix == ".csv" or path.name.startswith(("broken", "16bit", "alpha", "palette")):
            continue
        expected = PIL.ImageOps.exif_transpose(PIL.Image.open(path)).convert("RGB")
        assert np.array_equal(decode_image(path.read_bytes()), expected), path.name


@given(st.binary(max_size=200))
@example(exif(SIX))
@example(b"\0\0\0+\0\0\0\0\x80\0\0\0\0\0\0\0")  # a directory beyond all memory
def test_any_bytes_pass_for_exif_and_for_a_picture(data: bytes) -> None:
    assert read_exif_orientation(data) in {None, *range(1, 9)}
    for kind in ("JPEG", "PNG", "WebP", "TIFF", "BMP"):
        assert strip_metadata(data, kind).orientation in range(1, 9)
