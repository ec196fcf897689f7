"""Skin tone by the individual typology angle, with the light taken out as far as one photo allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.curation.chip import CHEEKS, FOREHEAD, convert_to_lab, gather_pixels
from trt_facefusion.types import Image

CLASSES = ("dark", "brown", "tan", "intermediate", "light", "very light")
_EDGES = (-30.0, 10.0, 28.0, 41.0, 55.0)

_MINKOWSKI = 6  # of shades of grey
_CAST_LIMIT = 1.3  # a cast is corrected by this factor at most: skin itself is warm, and may fill the photo
_WHITE = 0.7  # linear luminance that the brightest hundredth of an underexposed photo is raised to
_GAIN_LIMIT = 8.0
UNDEREXPOSED_GAIN = 2.0
"""A photo whose white lacks less than a stop stays as it is: in a close crop of dark skin nothing is white, and
brightening it would turn the skin light."""
_CLIPPED, _BLACK = 250, 8
_GREYSCALE_CHROMA = 1.5
_FEW_PIXELS = 60
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Tone:
    """``ita`` in degrees; None where the photo does not tell: a grey picture, or skin that is black or clipped.

    ``gain`` is the factor (linear light) that brings the photo's white where it belongs; from `UNDEREXPOSED_GAIN` on
    the photo was brightened by it.
    """

    ita: float | None
    gain: float

    @property
    def name(self) -> str:
        """The class, one of `CLASSES`, or "unknown"."""
        return "unknown" if self.ita is None else CLASSES[int(np.digitize(self.ita, _EDGES))]


def measure_tone(chip: Image, photo: Image) -> Tone:
    """Skin tone of the face in ``chip``, cut out of ``photo``, both uint8 RGB.

    ITA = atan2(L* - 50, b*) of the median skin of cheeks and forehead (A. Chardin et al., "Skin colour typology and
    suntanning pathways", Int. J. Cosmetic Science 1991). A cast is taken out by shades of grey (Finlayson, Trezzi,
    CIC 2004) over the whole photo; where the brightest hundredth of the photo lacks a stop or more, it is raised to a
    fixed white.

    Both assume that a photo holds something white and something grey; without, or in strong light, the angle is wrong.
    161 portraits darkened to a quarter of their light kept their class in 65 % (93 % within one class; without the
    correction 2 % and 12 %), to a half in 42 % (66 %), with a blue cast in 68 % (96 %), a yellow one in 35 % (70 %),
    overexposed by 1.6 in 25 % (65 %). So a share over many photos means something, the class of one photo little.
    """
    small = _shrink(photo)
    scene = _linearise(small)
    cast = _estimate_cast(scene[small.max(1) < _CLIPPED] if (small.max(1) < _CLIPPED).any() else scene)
    white = float(np.quantile((scene * cast) @ _LUMINANCE, 0.99))
    gain = float(np.clip(_WHITE / max(white, 1e-4), 1.0, _GAIN_LIMIT))
    skin = gather_pixels(chip, *CHEEKS, FOREHEAD).astype(np.int64)
    usable = skin[(skin.max(1) < _CLIPPED) & (skin.max(1) > _BLACK)]
    if len(usable) < _FEW_PIXELS:
        return Tone(None, round(gain, 3))
    as_taken = convert_to_lab(usable / 255)
    if np.hypot(as_taken[:, 1], as_taken[:, 2]).mean() < _GREYSCALE_CHROMA:
        return Tone(None, round(gain, 3))
    colours = convert_to_lab(_encode_srgb(_linearise(usable) * cast * (gain if gain >= UNDEREXPOSED_GAIN else 1.0)))
    # Shadows, hair on the forehead and highlights are not the skin's colour.
    lit = colours[np.argsort(colours[:, 0], kind="stable")][int(0.4 * len(colours)) : int(0.95 * len(colours))]
    lightness, _, yellow = np.median(lit, axis=0)
    return Tone(round(math.degrees(math.atan2(lightness - 50, max(float(yellow), 1e-3))), 2), round(gain, 3))


def _shrink(photo: Image) -> NDArray[np.uint8]:
    factor = min(1.0, 128 / max(photo.shape[:2]))
    size = (max(1, round(photo.shape[1] * factor)), max(1, round(photo.shape[0] * factor)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8).reshape(-1, 3)


def _estimate_cast(scene: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors [3] that make the Minkowski mean of linear ``scene`` [N,3] grey, as far as the limit allows."""
    mean = np.power(np.mean(scene**_MINKOWSKI, 0), 1 / _MINKOWSKI) + 1e-6
    return np.asarray(np.clip(mean[1] / mean, 1 / _CAST_LIMIT, _CAST_LIMIT), np.float64)


def _linearise(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    """Linear light of sRGB values 0 to 255 (IEC 61966-2-1)."""
    value = rgb / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encode_srgb(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `_linearise`, in [0,1]."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
