"""Pictures inside of a page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
_LOSSLESS_UP_TO_PX = 256
_AMPLIFICATIONS = (1, 2, 5, 10, 20, 50, 100)


def encode_data_uri(picture: Picture) -> str:
    """A picture [H,W,3] uint8 RGB as a data URI: lossless WebP, quality 95 for sides above 256 px."""
    buffer = io.BytesIO()
    small = max(picture.shape[:2]) <= _LOSSLESS_UP_TO_PX
    Image.fromarray(picture).save(buffer, "webp", lossless=small, quality=80 if small else 95, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def amplify_difference(reference: Picture, candidate: Picture, amplification: int) -> Picture:
    """The absolute difference per channel, ``amplification`` times as bright, saturated at white."""
    apart = np.abs(reference.astype(np.int16) - candidate.astype(np.int16))
    return np.asarray(np.minimum(apart * amplification, 255), np.uint8)


def choose_amplification(reference: NDArray[Any], candidates: list[NDArray[Any]]) -> int:
    """The factor that makes all but the largest 0.1 % of the differences fit: one for all, so that maps compare."""
    apart = [np.abs(reference.astype(np.int16) - pictures.astype(np.int16)) for pictures in candidates]
    high = max((float(np.quantile(values, 0.999)) for values in apart), default=0.0)
    fitting = [factor for factor in _AMPLIFICATIONS if high * factor <= 255]
    return fitting[-1] if fitting else 1
