"""Colours of a swapped face brought to those of the face that it replaces."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.types import Image

# A face that is lit harder than the source may have more contrast; beyond this, hair or a hand is in the way.
_LEAST_GAIN, _MOST_GAIN = 0.7, 1.4
_LEAST_SPREAD = 1e-3


def match_colours(picture: NDArray[np.float32], target: Image, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """``picture`` [S,S,3] (RGB in 0..1) with mean and deviation of ``target`` [S,S,3] in CIELAB, inside of ``weights``.

    ``weights`` [S,S] in 0..1 say which pixels are counted; all pixels are changed. Source: E. Reinhard et al., "Color
    transfer between images", IEEE CG&A 2001, in CIELAB instead of their own space.
    """
    total = float(weights.sum())
    if total <= 0:
        return picture
    lab = cv2.cvtColor(np.clip(picture, 0, 1), cv2.COLOR_RGB2LAB)
    wanted = cv2.cvtColor(target.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)
    mean, spread = _measure(lab, weights, total)
    target_mean, target_spread = _measure(wanted, weights, total)
    gain = np.clip(target_spread / np.maximum(spread, _LEAST_SPREAD), _LEAST_GAIN, _MOST_GAIN)
    moved = ((lab - mean) * gain + target_mean).astype(np.float32)
    return np.asarray(np.clip(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB), 0, 1), np.float32)


def _measure(
    lab: NDArray[np.float32], weights: NDArray[np.float32], total: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted mean and standard deviation of each channel."""
    flat, weight = lab.reshape(-1, 3), weights.reshape(-1)
    mean = weight @ flat / total
    spread = np.sqrt(np.maximum(weight @ (flat - mean) ** 2 / total, 0))
    return mean.astype(np.float32), spread.astype(np.float32)
