"""Sharpness and exposure of a face, measured on its chip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_facefusion.faces.curation.chip import CHEEKS, FACE, compute_luma, convert_to_lab, gather_pixels
from trt_facefusion.types import Image

_BLACK, _WHITE = 5, 250


@dataclass(frozen=True)
class Exposure:
    """Light on the face.

    ``lightness``: mean CIELAB L*, 0 to 100. ``contrast``: 95th minus 5th percentile of L*. ``clipped_bright`` and
    ``clipped_dark``: shares of pixels with a channel of 250 and more, or with all at 5 and less. ``side``: L* of the
    right cheek minus that of the left, as seen in the picture.
    """

    lightness: float
    contrast: float
    clipped_bright: float
    clipped_dark: float
    side: float


def measure_sharpness(chip: Image) -> float:
    """1 minus the blur metric of the face: near 0 for a blurred face, about 0.6 and more for a sharp one.

    The metric compares the picture with itself blurred, so contrast and brightness cancel; the chip has one scale for
    all, so faces of all sizes compare: a small face that had to be enlarged counts as blurred. Noise and compression
    artefacts pass for sharpness. Source: F. Crete et al., "The blur effect: perception and estimation with a new
    no-reference perceptual blur metric", SPIE 2007, as scikit-image computes it.
    """
    from skimage.measure import blur_effect

    face = compute_luma(chip)[FACE]
    if np.ptp(face) < 1:
        return 0.0
    return round(1 - float(blur_effect(face, h_size=11)), 4)


def measure_exposure(chip: Image) -> Exposure:
    """Exposure of the face in ``chip``."""
    face = chip[FACE]
    lightness = convert_to_lab(chip / np.float32(255))[..., 0]
    low, high = np.percentile(lightness[FACE], [5, 95])
    left, right = (float(np.median(gather_pixels(lightness, region))) for region in CHEEKS)
    return Exposure(
        lightness=round(float(lightness[FACE].mean()), 2),
        contrast=round(float(high - low), 2),
        clipped_bright=round(float((face.max(-1) >= _WHITE).mean()), 4),
        clipped_dark=round(float((face.max(-1) <= _BLACK).mean()), 4),
        side=round(right - left, 2),
    )
