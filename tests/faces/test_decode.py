from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from trt_facefusion.faces.image_file import MAX_FILE_BYTES, ImageTooLargeError, UnreadableImageError

from trt_facefusion.faces.decode import decode_image, read_image


def picture(width: int = 40, height: int = 24) -> PIL.Image.Image:
    """A smooth picture in which every corner has its own colour."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, 255 - x * 128 // width], axis=2)
    return PIL.Image.fromarray(pixels.astype(np.uint8))


def encoded(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_exact_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_image(encoded(picture(), kind, **options)), np.asarray(picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    undo = {
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_90,
        7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }
    stored = picture().transpose(undo[orientation]) if orientation > 1 else picture()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode_image(encoded(stored, "PNG", exif=exif)), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    image = decode_image(encoded(picture().convert(mode), kind))
    assert image.shape == (24, 40, 3)
    assert image.dtype == np.uint8
    reference = np.asarray(
        picture() if mode in {"RGBA", "YCbCr", "CMYK", "P"} else picture().convert("L").convert("RGB")
    )
    if mode != "1":
        assert np.abs(image.astype(int) - reference).mean() < 20


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = (np.asarray(picture()).astype(np.uint16) * 257)[..., ::-1]
    colour = decode_image(cv2.imencode(".png", wide)[1].tobytes())
    assert np.abs(colour.astype(int) - np.asarray(picture())).max() <= 1
    grey = decode_image(cv2.imencode(".png", wide[..., 0])[1].tobytes())
    assert np.array_equal(grey[..., 0], np.asarray(picture())[..., 2])
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_transparency_is_laid_on_white() -> None:
    half = PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    half.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image = decode_image(encoded(half, "PNG"))
    assert (image[:, :4] == 255).all()
    assert (np.abs(image[:, 4:].astype(int) - 127) <= 1).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises ``width`` x ``height`` pixels and whose data is a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [11_400, 13_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageTooLargeError, match="megapixels"):
        decode_image(bomb(side, side), "bomb.png")


def test_damaged_files_say_what_is_wrong(tmp_path: Path) -> None:
    whole = encoded(picture(400, 300), "JPEG")
    for data, reason in (
        (b"", "empty"),
        (b"hello, I am a text", "not a JPEG"),
        (whole[: len(whole) // 2], "truncated"),
        (encoded(picture(), "PNG")[:60], "truncated"),
        (encoded(picture().convert("F"), "TIFF"), "floating-point"),
        (encoded(picture(), "GIF"), "GIF pictures are not read"),
    ):
        (tmp_path / "photo.jpg").write_bytes(data)
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            read_image(tmp_path / "photo.jpg")
        assert caught.value.message.startswith("photo.jpg: ")
        assert caught.value.remedy


def test_a_file_that_is_absent_a_folder_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(UnreadableImageError, match="directory"):
        read_image(tmp_path)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ImageTooLargeError, match="MiB"):
        read_image(tmp_path / "huge.png")


def test_hard_photos_are_read_upright_and_broken_ones_are_not(shared_faces: Path) -> None:
    for path in sorted((shared_faces / "hard").glob("*_*.*")):
        if path.name.startswith("broken"):
            with pytest.raises(UnreadableImageError):
                read_image(path)
        else:
            image = read_image(path)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "I;16B"])
def test_strips_of_a_large_picture_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, options = ("TIFF" if mode in {"CMYK", "I;16B"} else "PNG"), {"transparency": 7} if mode == "P" else {}
    if mode.startswith("I;16"):
        grey = np.asarray(picture().convert("L")).astype(np.uint16) * 257
        data = encoded(PIL.Image.fromarray(grey), kind)
        if mode == "I;16B":
            values = grey.astype(">u2")
            data = encoded(PIL.Image.frombytes("I;16B", (40, 24), values.tobytes()), kind)
    else:
        data = encoded(picture().convert(mode), kind, **options)
    whole = decode_image(data)
    monkeypatch.setattr("trt_facefusion.faces.decode._STRIP_PIXELS", 7 * 40)
    assert np.array_equal(decode_image(data), whole)
