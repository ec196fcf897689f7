"""Full-reference picture metrics, one figure per face.

All pictures are [N,H,W,3] float32 (or float64) RGB in [0,1]; `from_nchw` brings network outputs into this form.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.floating[Any]]
PerFace = NDArray[np.float64]

PSNR_CAP_DB = 100.0
"""The PSNR of equal pictures, which is infinite by the formula: a finite figure can be averaged and written as JSON."""

_SPREAD_FLOOR = 1e-4  # 1/40 of a grey level: keeps the ratio finite for flat pictures
_THREADS = 2


def from_nchw(outputs: NDArray[Any], low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
    """Network outputs [N,3,H,W] with pixel values from ``low`` to ``high`` as pictures [N,H,W,3] float32 in [0,1].

    Nothing is clipped, and NaN and infinity stay: the judge counts them.
    """
    scaled = (outputs.astype(np.float32) - low) / (high - low)
    return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1), np.float32)


def psnr_db(reference: Pictures, candidate: Pictures) -> PerFace:
    """Peak signal-to-noise ratio [N] in dB: 10 log10(1 / MSE) over pixels and channels, at most `PSNR_CAP_DB`."""
    _check(reference, candidate)
    squared = (reference.astype(np.float64) - candidate.astype(np.float64)) ** 2
    mse = squared.mean(axis=(1, 2, 3))
    return np.asarray(-10 * np.log10(np.maximum(mse, 10 ** (-PSNR_CAP_DB / 10))), np.float64)


def ssim(reference: Pictures, candidate: Pictures) -> PerFace:
    """Structural similarity [N], averaged over channels; pictures need at least 11 px a side.

    Source: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004,
    with its Gaussian window (sigma 1.5) and population covariance, as scikit-image computes it.
    """
    from skimage.metrics import structural_similarity

    _check(reference, candidate)

    def one(index: int) -> float:
        return float(
            structural_similarity(
                reference[index].astype(np.float64),
                candidate[index].astype(np.float64),
                data_range=1.0,
                channel_axis=2,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return np.fromiter(pool.map(one, range(len(reference))), np.float64, len(reference))


def finite(pictures: Pictures) -> NDArray[np.bool_]:
    """Whether each face [N] is free of NaN and infinity."""
    return np.asarray(np.isfinite(pictures).all(axis=(1, 2, 3)))


def spread(reference: Pictures, candidate: Pictures) -> PerFace:
    """Standard deviation of each candidate face over that of its reference [N].

    Near 1 for a sound engine; near 0 where the output has collapsed to one colour, large where it has blown up.
    """
    _check(reference, candidate)
    of_reference = reference.astype(np.float64).std(axis=(1, 2, 3))
    of_candidate = candidate.astype(np.float64).std(axis=(1, 2, 3))
    return np.asarray((of_candidate + _SPREAD_FLOOR) / (of_reference + _SPREAD_FLOOR), np.float64)


def _check(reference: Pictures, candidate: Pictures) -> None:
    if reference.shape != candidate.shape or reference.ndim != 4 or reference.shape[-1] != 3:
        raise ValueError(f"pictures must both be [N,H,W,3], not {reference.shape} and {candidate.shape}")
