"""Two ways of running one network: what counts as rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.evaluation.accuracy.agreement import (
    SAME_NETWORK,
    Agreement,
    RoundingLimits,
    measure_agreement,
    measured,
    pooled,
)

RNG = np.random.default_rng(0)
PICTURES = RNG.random((4, 16, 16, 3)).astype(np.float32)


def test_equal_pictures_agree_to_the_bit() -> None:
    found = measure_agreement(PICTURES, PICTURES)
    assert (found.faces, found.ssim_drop, found.ssim_drop_worst, found.max_difference) == (4, 0.0, 0.0, 0.0)
    assert found.within(SAME_NETWORK)


def test_rounding_passes_and_another_picture_does_not() -> None:
    rounded = PICTURES + RNG.normal(0, 1e-5, PICTURES.shape)
    assert measure_agreement(PICTURES, rounded).within(SAME_NETWORK)
    assert not measure_agreement(PICTURES, np.roll(PICTURES, 1, axis=2)).within(SAME_NETWORK)


def test_one_wrong_pixel_is_enough() -> None:
    """A border that is padded otherwise hardly moves the mean."""
    got = PICTURES.copy()
    got[2, 0, 0, 1] = 1 - got[2, 0, 0, 1].round()
    found = measure_agreement(PICTURES, got)
    assert found.max_difference > 0.4 and not found.within(SAME_NETWORK)


def test_a_broken_face_is_wholly_different() -> None:
    got = PICTURES.copy()
    got[1, 3, 3, 0] = np.nan
    found = measure_agreement(PICTURES, got)
    assert (found.ssim_drop_worst, found.max_difference) == (1.0, 1.0) and found.ssim_drop == pytest.approx(0.25)


@given(st.integers(1, 3))
def test_batches_give_the_figures_of_the_whole(size: int) -> None:
    got = (PICTURES + 0.1 * RNG.random(PICTURES.shape)).astype(np.float32)
    parts = [measured(PICTURES[i : i + size], got[i : i + size]) for i in range(0, 4, size)]
    assert pooled(parts) == measure_agreement(PICTURES, got)


def test_a_network_whose_own_rounding_is_large_is_allowed_as_much() -> None:
    own = Agreement(8, 2e-4, 1e-3, 0.03)
    found = Agreement(8, 6e-4, 2e-3, 0.1)
    assert not found.within(SAME_NETWORK) and found.within(SAME_NETWORK.widened(own))
    assert SAME_NETWORK.widened(Agreement(8, 0, 0, 0)) == RoundingLimits(
        SAME_NETWORK.ssim_drop, SAME_NETWORK.max_difference
    )
