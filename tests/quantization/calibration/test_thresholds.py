from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.thresholds import (
    amax_entropy,
    amax_max,
    amax_mse,
    amax_percentile,
    parse_rule,
)

ALL = (amax_entropy, amax_max, amax_mse, amax_percentile)


def histogram_of(values) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def literal_entropy(histogram: Histogram, levels: int = 128) -> dict[int, float]:
    """The pseudo-code of the GTC 2017 talk, a candidate at a time."""
    bins = histogram.counts.astype(float)
    bins[0] = bins[1]
    divergence = {}
    for i in range(levels, np.flatnonzero(bins)[-1] + 2):
        reference = bins[:i].copy()
        reference[-1] += bins[i:].sum()
        level_of = np.arange(i) * levels // i
        filled = bins[:i] > 0
        of_level = np.bincount(level_of, bins[:i]) / np.maximum(np.bincount(level_of, filled), 1)
        candidate = np.where(filled, of_level[level_of], 0)
        divergence[i] = entropy(reference, candidate)
    return divergence


def distribution(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.choice([rng.standard_normal, rng.standard_cauchy, rng.standard_exponential])(4000)
    return np.maximum(values, 0) if rng.random() < 0.5 else values


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32))
def test_entropy_is_the_literal_algorithm(seed):
    histogram = histogram_of(distribution(seed))
    divergence = literal_entropy(histogram)
    lowest = min(divergence.values())
    best = max(i for i, value in divergence.items() if value <= lowest + 1e-10)
    assert amax_entropy(histogram) == min((best + 0.5) * histogram.bin_width, histogram.amax)


def test_entropy_clips_a_lone_outlier():
    values = np.append(np.random.default_rng(0).standard_normal(200_000), 30)
    assert 2.5 < amax_entropy(histogram_of(values)) < 8


def test_exact_zeros_do_not_move_the_entropy_threshold():
    values = np.abs(np.random.default_rng(0).standard_normal(50_000))
    assert amax_entropy(histogram_of(values)) == amax_entropy(histogram_of(np.append(values, np.zeros(500_000))))


@pytest.mark.parametrize("percent", [50, 99, 99.9, 100])
def test_percentile_is_the_inverted_cdf_to_a_bin(percent):
    values = np.abs(np.random.default_rng(1).standard_normal(100_000)).astype(np.float32)
    histogram = histogram_of(values)
    exact = np.sort(values)[round(len(values) * percent / 100) - 1]  # the inverted CDF, in whole numbers
    assert exact <= amax_percentile(histogram, percent) <= exact + histogram.bin_width


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_mse_is_as_good_as_the_best_threshold_found_on_the_values(seed):
    values = distribution(seed)

    def error(amax: float) -> float:
        scale = amax / 127
        return float(np.mean((values - np.clip(np.round(values / scale), -127, 127) * scale) ** 2))

    top = np.abs(values).max()
    best = min(error(top * 2**-octave) for octave in np.linspace(0, 5, 161))
    assert error(amax_mse(histogram_of(values))) <= best * 1.05


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-35, 1e-20, 1 / 3, 1.0, 65504.0, 1e30])
@pytest.mark.parametrize("zeros", [0, 1000])
def test_degenerate_histograms_give_a_positive_range(rule, value, zeros):
    amax = rule(histogram_of([value] * 5 + [0] * zeros))
    assert 0 < np.float32(amax / 127) < np.inf
    assert amax == 1 if value < 1e-30 else amax <= np.float32(value)


@pytest.mark.parametrize("rule", ALL)
def test_an_empty_histogram_gives_a_positive_range(rule):
    assert rule(Histogram()) == 1


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(-20, 20))
def test_thresholds_scale_with_the_data_and_never_exceed_the_largest_value(seed, exponent):
    values = distribution(seed)
    for rule in ALL:
        amax = rule(histogram_of(values))
        assert 0 < amax <= np.abs(values.astype(np.float32)).max()
        assert rule(histogram_of(values * 2.0**exponent)) == pytest.approx(amax * 2.0**exponent, rel=1e-6)


@pytest.mark.parametrize("text", ["entropy", "max", "mse", "percentile:99.99", "percentile:50", "percentile:100"])
def test_a_rules_text_names_it(text):
    assert str(parse_rule(text)) == text
    assert parse_rule(text)(histogram_of([1, 2, 3])) > 0


def test_percentile_without_a_value_says_which_it_is():
    assert str(parse_rule("percentile")) == "percentile:99.99"


@pytest.mark.parametrize("text", ["", "kl", "max:3", "percentile:", "percentile:0", "percentile:101", "percentile:nan"])
def test_unknown_rules_are_refused_with_the_known_ones(text):
    with pytest.raises(BadInputError) as caught:
        parse_rule(text)
    assert "percentile" in caught.value.remedy
