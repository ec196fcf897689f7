"""Damaged files are refused with a message, whatever is damaged, or show what is left."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_facefusion.faces.image_file import UnreadableImageError
from trt_facefusion.swap.photo import Photo, decode_photo
from trt_facefusion.swap.photo_file import BMP, JPEG, PNG, TIFF, WEBP, encode_photo
from trt_facefusion.swap.provenance import Provenance

_RNG = np.random.default_rng(1)
_PHOTOS = [
    Photo(_RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8), profile=b"p" * 256),
    Photo(_RNG.integers(0, 65536, (24, 31, 3), dtype=np.uint16), _RNG.integers(0, 65536, (24, 31), dtype=np.uint16)),
    Photo(_RNG.integers(0, 256, (24, 31, 4), dtype=np.uint8)),
    Photo(_RNG.integers(0, 65536, (24, 31, 1), dtype=np.uint16)),
]
FILES = [encode_photo(p, kind, Provenance().mark) for p in _PHOTOS for kind in (JPEG, PNG, WEBP, TIFF, BMP)]


@settings(max_examples=400)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6), st.data())
def test_a_damaged_photo_is_read_or_refused(file: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(file)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    cut = data.draw(st.integers(0, len(damaged)))
    content = bytes(damaged if data.draw(st.booleans()) else damaged[:cut])
    try:
        photo = decode_photo(content, "photo")
    except UnreadableImageError as error:
        assert error.reason and error.remedy
        return
    assert photo.rgb8.ndim == 3 and photo.rgb8.dtype == np.uint8
    assert encode_photo(photo, PNG)


def test_an_empty_file_and_a_stranger_are_refused() -> None:
    for content in (b"", b"hello", io.BytesIO(b"GIF89a" + bytes(30)).getvalue()):
        with pytest.raises(UnreadableImageError):
            decode_photo(content)
