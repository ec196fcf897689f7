"""The split of a tensor's error into what its node adds and what came in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.evaluation.comparison.layer_error import LayerError, LayerSums, Node

NODE = Node("n", "Conv", "int8", "fp32")


def result(*batches: tuple[np.ndarray, np.ndarray, np.ndarray]) -> LayerError:
    sums = LayerSums()
    for batch in batches:
        sums.add(*batch)
    return sums.finish("t", NODE)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-3, 1.0, 1e4]), st.integers(1, 3))
def test_batches_add_up_to_the_root_mean_squares_of_all(seed: int, scale: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [tuple(rng.normal(0, scale, (3, 2, 5, 5)).astype(np.float32)) for _ in range(count)]
    found = result(*batches)
    a, b, local = (np.stack(values).astype(np.float64) for values in zip(*batches, strict=True))
    signal = np.sqrt((a**2).mean())
    assert found.added == pytest.approx(np.sqrt(((local - a) ** 2).mean()) / signal)
    assert found.inherited == pytest.approx(np.sqrt(((b - local) ** 2).mean()) / signal)
    assert found.total == pytest.approx(np.sqrt(((b - a) ** 2).mean()) / signal)
    assert found.max_abs == pytest.approx(np.abs(b - a).max())
    assert (found.nonfinite, found.nonfinite_added) == (0, 0)


def test_values_that_are_not_finite_are_counted_where_they_arise() -> None:
    a, b, local = (np.ones((2, 4), np.float32) for _ in range(3))
    b[0], local[0, :2] = np.inf, np.nan
    found = result((a, b, local))
    assert (found.nonfinite, found.nonfinite_added) == (4, 2)
    assert found.total == 0 and found.added == 0
    assert found.rank > result((a, a * 9, a * 9)).rank


def test_a_mask_of_minus_infinity_on_both_sides_is_no_error() -> None:
    a = np.array([[0.0, -np.inf, 2.0]], np.float32)
    found = result((a, a, a))
    assert (found.total, found.nonfinite) == (0, 0)


def test_nothing_finite_and_nothing_but_zeros() -> None:
    nothing = np.full((1, 2), np.nan, np.float32)
    assert result((np.ones((1, 2), np.float32), nothing, nothing)).total is None
    zeros = np.zeros((1, 2), np.float32)
    assert result((zeros, zeros, zeros)).total == 0
    assert result((zeros, zeros + 1e-9, zeros)).total == 1
