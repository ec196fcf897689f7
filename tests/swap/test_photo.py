"""Photos come out of their files, and go back, with every channel and bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.image_file import UnreadableImageError
from trt_facefusion.swap.paste import Patch, Region, blend_photo
from trt_facefusion.swap.photo import Photo, cmyk_to_rgb, decode_photo, rgb_to_cmyk
from trt_facefusion.swap.photo_file import BMP, JPEG, PNG, TIFF, WEBP, encode_photo, find_kind
from trt_facefusion.swap.provenance import SOURCE_TYPE, TEXT, Provenance

MARK = Provenance().mark
RNG = np.random.default_rng(3)


def pixels(channels: int, deep: bool = False, height: int = 21, width: int = 34) -> NDArray[Any]:
    kind = np.uint16 if deep else np.uint8
    return RNG.integers(0, np.iinfo(kind).max + 1, (height, width, channels), dtype=kind)


def same(one: Photo, other: Photo) -> bool:
    alphas = (one.alpha is None) == (other.alpha is None) and (
        one.alpha is None or np.array_equal(one.alpha, other.alpha)
    )
    return one.pixels.dtype == other.pixels.dtype and np.array_equal(one.pixels, other.pixels) and bool(alphas)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("kind", [PNG, TIFF])
def test_lossless_files_keep_channels_depth_and_alpha(channels: int, deep: bool, alpha: bool, kind: str) -> None:
    photo = Photo(pixels(channels, deep), pixels(1, deep)[..., 0] if alpha else None, profile=b"p" * 200)
    again = decode_photo(encode_photo(photo, kind, MARK))
    if channels == 1 and deep and alpha:  # few programs read this: colour that shows the same
        assert np.array_equal(np.repeat(photo.pixels, 3, 2), again.pixels) and np.array_equal(photo.alpha, again.alpha)
    else:
        assert same(photo, again) and again.kind == kind
        assert again.profile == photo.profile


@pytest.mark.parametrize("kind", [BMP, WEBP])
def test_other_lossless_files_keep_colours(kind: str) -> None:
    photo = Photo(pixels(3))
    assert same(photo, decode_photo(encode_photo(photo, kind, MARK)))


def test_webp_keeps_what_transparency_hides() -> None:
    photo = Photo(pixels(3), pixels(1)[..., 0])
    assert same(photo, decode_photo(encode_photo(photo, WEBP)))


def test_cmyk_stays_cmyk_in_tiff_and_jpeg() -> None:
    photo = Photo(pixels(4))
    assert same(photo, decode_photo(encode_photo(photo, TIFF, MARK)))
    smooth = Photo(np.full((16, 16, 4), (200, 40, 90, 30), np.uint8))
    again = decode_photo(encode_photo(smooth, JPEG, MARK))
    assert again.channels == 4 and np.abs(again.pixels.astype(int) - smooth.pixels).max() <= 2


@given(arrays.arrays(np.uint8, (5, 7, 4)))
def test_inks_show_what_was_asked_with_the_black_that_was_there(inks: NDArray[np.uint8]) -> None:
    rgb = cmyk_to_rgb(inks)
    again = rgb_to_cmyk(rgb.astype(np.float32), inks[..., 3])
    assert np.abs(cmyk_to_rgb(again).astype(int) - rgb).max() <= 1
    assert (again[..., 3] <= inks[..., 3]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int) -> None:
    picture = pixels(3)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "PNG", exif=exif.tobytes())
    photo = decode_photo(buffer.getvalue())
    again = encode_photo(photo, PNG, MARK)
    assert same(photo, decode_photo(again))
    with PIL.Image.open(io.BytesIO(again)) as written:
        assert written.getexif().get(0x0112, 1) == 1
        upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(buffer.getvalue())))
        assert np.array_equal(np.asarray(upright), photo.pixels)


def test_palettes_and_single_bits_show_what_they_showed() -> None:
    for mode in ("P", "1"):
        picture = PIL.Image.fromarray(pixels(3)).convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        photo = decode_photo(buffer.getvalue())
        assert np.array_equal(photo.rgb8, np.asarray(picture.convert("RGB")))
        assert same(photo, decode_photo(encode_photo(photo, PNG)))


def test_a_jpeg_is_written_with_the_tables_it_came_with(face: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(face).save(buffer, "JPEG", quality=71, subsampling=2)
    photo = decode_photo(buffer.getvalue())
    again = encode_photo(photo, JPEG, MARK)
    with PIL.Image.open(io.BytesIO(again)) as one, PIL.Image.open(io.BytesIO(buffer.getvalue())) as other:
        assert one.quantization == other.quantization  # type: ignore[attr-defined]
    difference = np.abs(decode_photo(again).pixels.astype(int) - photo.pixels)
    assert difference.mean() < 0.6 and np.percentile(difference, 99) <= 4


def test_what_a_format_cannot_hold_is_told() -> None:
    notes: list[str] = []
    deep = Photo(pixels(3, deep=True), pixels(1, deep=True)[..., 0])
    assert decode_photo(encode_photo(deep, JPEG, MARK, notes.append)).pixels.dtype == np.uint8
    assert any("8 bits" in note for note in notes) and any("transparency" in note for note in notes)
    notes.clear()
    encode_photo(Photo(pixels(3)), BMP, MARK, notes.append)
    assert any("BMP" in note for note in notes)
    with pytest.raises(BadInputError, match="16383"):
        encode_photo(Photo(np.zeros((1, 20000, 3), np.uint8)), WEBP)


@pytest.mark.parametrize("name", ["out.gif", "out", "out.heic"])
def test_a_kind_that_is_not_written_is_refused(name: str, tmp_path: Any) -> None:
    with pytest.raises(BadInputError, match="not written"):
        find_kind(tmp_path / name)


def test_cmyk_of_16_bits_is_refused_rather_than_cut() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels(4, deep=True), photometric="separated")
    with pytest.raises(UnreadableImageError):
        decode_photo(buffer.getvalue())


@pytest.mark.parametrize("kind", [JPEG, PNG, WEBP, TIFF])
@pytest.mark.parametrize("deep", [False, True])
def test_every_format_says_that_it_was_generated(kind: str, deep: bool) -> None:
    encoded = encode_photo(Photo(pixels(3, deep)), kind, MARK)
    assert TEXT.encode() in encoded and SOURCE_TYPE.encode() in encoded
    with PIL.Image.open(io.BytesIO(encoded)) as picture:
        xmp = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or picture.tag_v2[700]  # type: ignore
        assert "compositeWithTrainedAlgorithmicMedia" in str(xmp)


def test_no_provenance_leaves_no_mark() -> None:
    for kind in (JPEG, PNG, WEBP, TIFF):
        assert b"facefusion" not in encode_photo(Photo(pixels(3)), kind, Provenance("none").mark)


@given(st.sampled_from([1, 3, 4]), st.booleans(), st.integers(0, 2**32 - 1))
def test_pixels_without_weight_stay_bit_by_bit(channels: int, deep: bool, seed: int) -> None:
    deep = deep and channels != 4
    rng = np.random.default_rng(seed)
    photo = Photo(pixels(channels, deep))
    before = photo.pixels.copy()
    weights = rng.choice([0, 0.25, 1], (9, 11)).astype(np.float32)
    colours = rng.integers(0, 256, (9, 11, 3)).astype(np.float32 if deep else np.uint8)
    blend_photo(photo, Patch(Region(5, 4, 16, 13), colours, weights))
    untouched = np.ones(before.shape[:2], bool)
    untouched[4:13, 5:16] = weights == 0
    assert np.array_equal(before[untouched], photo.pixels[untouched])
    full = np.zeros_like(untouched)
    full[4:13, 5:16] = weights == 1
    if channels == 3 and not deep:
        assert np.array_equal(photo.pixels[full], colours[weights == 1])
