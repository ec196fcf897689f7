"""The one picture of a face that all measures are taken from: aligned, always at the same scale."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.align import TEMPLATES, Landmarks, align_crop
from trt_facefusion.types import Image

TEMPLATE, SIZE = "arcface_128", 128

Region = tuple[slice, slice]
FACE: Region = (slice(22, 116), slice(30, 98))
"""The face without most of hair and background; rows and columns of the chip, as all regions below."""
CHEEKS: tuple[Region, Region] = ((slice(66, 82), slice(36, 50)), (slice(66, 82), slice(78, 92)))
"""Left and right, as seen in the picture."""
FOREHEAD: Region = (slice(26, 38), slice(50, 78))
EYES: Region = (slice(38, 66), slice(26, 102))
BRIDGE: Region = (slice(56, 66), slice(58, 70))
EYE_PATCHES: tuple[Region, Region] = ((slice(44, 58), slice(36, 54)), (slice(44, 58), slice(74, 92)))
MOUTH: tuple[Region, Region, Region] = (
    (slice(76, 96), slice(38, 50)),
    (slice(76, 96), slice(78, 90)),
    (slice(80, 88), slice(50, 78)),
)
"""Beside the mouth, and between it and the nose."""


def cut_chip(image: Image, landmarks: Landmarks | None) -> Image:
    """The chip [128,128,3] of the face with ``landmarks`` in ``image``; None: ``image`` is one face that fills it."""
    return align_crop(image, locate_landmarks(image, landmarks), TEMPLATE, SIZE)


def locate_landmarks(image: Image, landmarks: Landmarks | None) -> Landmarks:
    """``landmarks``, or where they are expected in an ``image`` that one face fills."""
    if landmarks is not None:
        return landmarks
    return np.asarray(TEMPLATES[TEMPLATE] * np.array(image.shape[1::-1], np.float32), np.float32)


def compute_luma(chip: Image) -> NDArray[np.float32]:
    """Luma [H,W] float32, 0 to 255."""
    return np.asarray(cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY), np.float32)


def convert_to_lab(rgb: NDArray[np.floating]) -> NDArray[np.float32]:
    """CIELAB (D65) [...,3] of sRGB values in [0,1]: L* 0 to 100."""
    flat = np.ascontiguousarray(rgb, np.float32).reshape(1, -1, 3)
    return np.asarray(cv2.cvtColor(flat, cv2.COLOR_RGB2LAB), np.float32).reshape(rgb.shape)


def gather_pixels(chip: NDArray[Any], *regions: Region) -> NDArray[Any]:
    """The pixels [N,...] of ``regions``."""
    return np.concatenate([chip[region].reshape(-1, *chip.shape[2:]) for region in regions])
