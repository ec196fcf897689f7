from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trt_facefusion.quantization.calibration.histogram import BINS, MIN_EXPONENT, Histogram

finite = st.floats(-(2.0**126), 2.0**126, width=32)
batches = st.lists(hnp.arrays(np.float32, st.integers(0, 40), elements=finite), min_size=1, max_size=6)


def histogram_of(*arrays):
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def activations(seed: int, images: int = 6) -> list[np.ndarray]:
    """Images whose magnitudes differ by orders, with the zeros of a ReLU."""
    rng = np.random.default_rng(seed)
    return [
        np.maximum(rng.normal(0, 10 ** rng.uniform(-3, 2), (8, 50, 50)), -0.1).astype(np.float32) for _ in range(images)
    ]


@given(batches, st.randoms())
def test_order_and_batch_size_change_no_bit(arrays, random):
    shuffled = random.sample(arrays, len(arrays))
    assert histogram_of(*shuffled) == histogram_of(np.concatenate(arrays)) == histogram_of(*arrays)


def test_twenty_shuffles_of_large_activations_give_the_same_bytes():
    images = activations(0)
    expected = json.dumps(histogram_of(*images).as_dict())
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(images))
        assert json.dumps(histogram_of(*(images[i] for i in order)).as_dict()) == expected
    assert json.dumps(histogram_of(np.stack(images)).as_dict()) == expected


@given(batches, batches)
def test_merging_is_adding(first, second):
    merged = histogram_of(*first)
    merged.merge(histogram_of(*second))
    assert merged == histogram_of(*first, *second)


@pytest.mark.parametrize("size", [1, 100, 16_383, 16_384, 131_072, 300_001])
def test_counts_are_numpys(size):
    values = np.random.default_rng(size).standard_normal(size, np.float32)
    histogram = histogram_of(values)
    edges = np.arange(BINS + 1) * histogram.bin_width
    assert np.array_equal(histogram.counts, np.histogram(np.abs(values), edges)[0])
    assert histogram.count == size
    assert histogram.amax == np.abs(values).max()


@given(finite.filter(lambda x: abs(x) > 2.0**MIN_EXPONENT))
def test_the_range_is_the_power_of_two_above_amax(value):
    histogram = histogram_of(np.float32([value]))
    width = histogram.bin_width * BINS
    assert width / 2 <= histogram.amax < width
    assert np.log2(width) == histogram.exponent


def test_doubling_the_range_merges_pairs_of_bins():
    histogram = histogram_of(np.linspace(0, 0.99, 5000, dtype=np.float32))
    before = histogram.counts.copy()
    histogram.add(np.float32([1.5]))
    assert histogram.exponent == 1
    assert np.array_equal(histogram.counts[: BINS // 2], before.reshape(-1, 2).sum(1))


def test_values_that_are_not_finite_are_counted_and_left_out():
    values = np.ones(20_000, np.float32)
    values[[3, 50, 19_999]] = np.nan, np.inf, -np.inf
    histogram = histogram_of(values)
    assert histogram.non_finite == 3
    assert histogram.count == 19_997
    assert histogram.amax == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_and_strides_count_as_float32(dtype):
    values = np.random.default_rng(1).normal(size=(4, 6, 100)).astype(dtype).transpose(2, 0, 1)
    assert histogram_of(values) == histogram_of(values.astype(np.float32))


@given(batches)
def test_json_round_trip(arrays):
    histogram = histogram_of(*arrays)
    assert Histogram.from_dict(json.loads(json.dumps(histogram.as_dict()))) == histogram


@pytest.mark.parametrize(
    "change",
    [
        {"counts": "AAAA"},
        {"counts": "%"},
        {"counts": 3},
        {"amax": 7.0},
        {"amax": 1e999},
        {"exponent": 5},
        {"exponent": None},
    ],
)
def test_damaged_json_is_refused(change):
    with pytest.raises(ValueError, match=r".+"):
        Histogram.from_dict(histogram_of(np.float32([1, 2])).as_dict() | change)
