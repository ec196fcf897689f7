"""Full-reference picture metrics, one figure per face.

All pictures are [N,H,W,3] float32 (or float64) RGB in [0,1]; `decode_nchw` brings network outputs into this form.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.evaluation.accuracy.metric import (
    Figure,
    Limit,
    Metric,
    PerFace,
    Pictures,
    Unit,
    highest,
    lowest,
    mean,
)

PSNR_CAP_DB = 100.0
"""The PSNR of equal pictures, which is infinite by the formula: a finite figure can be averaged and written as JSON."""

_SPREAD_FLOOR = 1e-4  # 1/40 of a grey level: keeps the ratio finite for flat pictures
_THREADS = 2


def decode_nchw(outputs: NDArray[Any], low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
    """Network outputs [N,3,H,W] with pixel values from ``low`` to ``high`` as pictures [N,H,W,3] float32 in [0,1].

    Nothing is clipped, and NaN and infinity stay: the judge counts them.
    """
    scaled = (outputs.astype(np.float32) - low) / (high - low)
    return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1), np.float32)


def measure_psnr_db(reference: Pictures, candidate: Pictures) -> PerFace:
    """Peak signal-to-noise ratio [N] in dB: 10 log10(1 / MSE) over pixels and channels, at most `PSNR_CAP_DB`."""
    _check(reference, candidate)
    pairs = zip(
        reference, candidate, strict=True
    )  # one at a time: in float64 large pictures take hundreds of megabytes
    mse = np.array([np.square(a.astype(np.float64) - b.astype(np.float64)).mean() for a, b in pairs], np.float64)
    return np.asarray(-10 * np.log10(np.maximum(mse, 10 ** (-PSNR_CAP_DB / 10))), np.float64)


def measure_ssim(reference: Pictures, candidate: Pictures) -> PerFace:
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


def find_finite(pictures: Pictures) -> NDArray[np.bool_]:
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


class Ssim(Metric):
    """Structural similarity, and what is missing of it to 1: the figure that everything is chosen by."""

    name = "ssim"
    figures = (
        Figure("ssim", "SSIM", mean, higher_is_better=True, exact=1.0, shown=False, worst_key="ssim_worst"),
        Figure("ssim_worst", "SSIM", lowest, higher_is_better=True, exact=1.0, shown=False, of_worst=True),
        Figure(
            "ssim_drop",
            "SSIM drop",
            lambda ssims: float(1 - ssims.mean()),
            Unit.SHARE,
            limit=Limit(
                "max_ssim_drop",
                "the mean SSIM drop",
                "INT8: mean SSIM lost at most (else 0.01, and the search aims at 0.003 where most MACs stay in INT8).",
                least=0.0,
                most=1.0,
            ),
            worst_key="ssim_drop_worst",
            # The mean of drops, as measurements on disk hold it: the last bit of a sum may be another one.
            pool_of_plans=lambda ssims: mean(1 - ssims),
        ),
        Figure(
            "ssim_drop_worst",
            "SSIM drop",
            lambda ssims: float(1 - ssims.min()),
            Unit.SHARE,
            limit=Limit("max_ssim_drop_worst", "the SSIM drop of the worst face"),
            of_worst=True,
            pool_of_plans=lambda ssims: highest(1 - ssims),
        ),
    )
    broken = 0.0
    least_side_px = 11

    def per_face(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """See `ssim`."""
        return measure_ssim(reference, candidate)


class Psnr(Metric):
    """Peak signal-to-noise ratio."""

    name = "psnr_db"
    figures = (
        Figure(
            "psnr_db",
            "PSNR",
            mean,
            Unit.DECIBEL,
            higher_is_better=True,
            exact=PSNR_CAP_DB,
            worst_key="psnr_db_worst",
        ),
        Figure(
            "psnr_db_worst",
            "PSNR",
            lowest,
            Unit.DECIBEL,
            higher_is_better=True,
            exact=PSNR_CAP_DB,
            shown=False,
            of_worst=True,
        ),
    )
    broken = 0.0

    def per_face(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """See `psnr_db`."""
        return measure_psnr_db(reference, candidate)


def _check(reference: Pictures, candidate: Pictures) -> None:
    if reference.shape != candidate.shape or reference.ndim != 4 or reference.shape[-1] != 3:
        raise ValueError(f"pictures must both be [N,H,W,3], not {reference.shape} and {candidate.shape}")
