"""What a threshold costs a tensor, read from its histogram."""

from __future__ import annotations

import numpy as np

from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.table import INT8_MAX

_CAP_DB = 120.0


def compute_sqnr_db(histogram: Histogram, amax: float) -> float:
    """Signal-to-quantisation-noise ratio in dB of symmetric INT8 with ``amax``, at most 120.

    Values below half a step become 0, those up to ``amax`` carry the noise of rounding, step^2 / 12, and those above
    are clipped to it. Every value counts as the middle of its bin, those of the first bin as 0. Source of the noise of
    rounding: B. Widrow and I. Kollar, "Quantization Noise", 2008.
    """
    middles = (np.arange(len(histogram.counts)) + 0.5) * histogram.bin_width
    middles[0] = 0.0
    counts = histogram.counts.astype(np.float64)
    step = amax / INT8_MAX
    rounded = np.where(middles < step / 2, middles**2, step * step / 12)
    errors = np.where(middles <= amax, rounded, (middles - amax) ** 2)
    signal, noise = float(counts @ middles**2), float(counts @ errors)
    if signal == 0 or noise == 0:
        return _CAP_DB
    return float(min(10 * np.log10(signal / noise), _CAP_DB))


def compute_clipped_share(histogram: Histogram, amax: float) -> float:
    """Share of the values that lie above ``amax``, to the width of a bin."""
    if histogram.count == 0:
        return 0.0
    first = int(np.ceil(amax / histogram.bin_width))
    return float(histogram.counts[first:].sum() / histogram.count)
