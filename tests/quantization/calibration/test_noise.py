"""The noise that a threshold costs, against quantising the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.noise import compute_clipped_share, compute_sqnr_db


def _measured_db(values: np.ndarray, amax: float) -> float:
    scale = amax / 127
    back = np.clip(np.round(values / scale), -127, 127) * scale
    return float(10 * np.log10((values**2).sum() / ((values - back) ** 2).sum()))


@settings(max_examples=40)
@given(seed=st.integers(0, 999), share=st.floats(0.05, 1.0), zeros=st.floats(0, 0.9))
def test_the_noise_is_what_quantising_the_values_gives(seed: int, share: float, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=40_000) * (rng.random(40_000) > zeros)).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    amax = share * histogram.amax
    assert compute_sqnr_db(histogram, amax) == pytest.approx(_measured_db(values.astype(np.float64), amax), abs=0.3)
    assert compute_clipped_share(histogram, amax) == pytest.approx(float((np.abs(values) > amax).mean()), abs=6e-3)


def test_a_tensor_of_zeros_has_no_noise() -> None:
    histogram = Histogram()
    histogram.add(np.zeros(8, np.float32))
    assert compute_sqnr_db(histogram, 1.0) == 120.0
    assert compute_clipped_share(Histogram(), 1.0) == 0.0
