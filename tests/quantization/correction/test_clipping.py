"""The search for the scale with the smallest error: the same scales as if all were tried in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.clipping import find_best_scales, measure_quantisation_error
from trt_facefusion.quantization.correction.grid import round_scale

KINDS = (TensorProto.FLOAT16, TensorProto.FLOAT)


def candidates(matrix: np.ndarray, kind: int) -> np.ndarray:
    peak = np.abs(matrix).max(axis=1) / INT8_MAX
    return np.stack([round_scale((shrink * peak).astype(np.float32), kind) for shrink in np.linspace(1, 0.7, 31)])


def tried_one_by_one(matrix: np.ndarray, scales: np.ndarray, variances: np.ndarray) -> np.ndarray:
    best, smallest = scales[0].copy(), np.full(len(matrix), np.inf)
    for scale in scales:
        wide = scale.astype(np.float64)[:, None]
        steps = np.clip(np.rint(matrix / wide), -INT8_MAX, INT8_MAX)
        error = ((steps * wide - matrix) ** 2) @ variances
        best, smallest = np.where(error < smallest, scale, best), np.minimum(error, smallest)
    return best


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 140), st.sampled_from((1, 2, 9, 27, 300, 1023, 1025, 2304))),
    tail=st.sampled_from((1.5, 3.0, 30.0)),
    size=st.sampled_from((1e-9, 1e-3, 1.0, 1e4)),
    uneven=st.sampled_from((0.0, 1.0, 8.0)),
    kind=st.sampled_from(KINDS),
)
def test_the_scales_are_those_that_double_precision_chooses(
    seed: int, shape: tuple[int, int], tail: float, size: float, uneven: float, kind: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = (size * rng.standard_t(tail, shape)).astype(np.float32).astype(np.float64)
    variances = np.exp(uneven * rng.standard_normal(shape[1]))
    with np.errstate(all="ignore"):  # scales that FP16 cannot hold are infinite
        scales = candidates(matrix, kind)
        expected = tried_one_by_one(matrix, scales, variances)
    best_scales = find_best_scales(matrix, scales, variances)
    assert best_scales.dtype == scales.dtype
    assert np.array_equal(best_scales, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["no weights", "on the grid", "one weight", "no variance", "tiny", "nan", "infinite"])
def test_doubts_are_decided_in_double_precision(what: str, kind: int) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.integers(-127, 128, (80, 40)) * 2.0**-7
    variances = rng.random(40) + 0.1
    if what == "no weights":
        matrix[3:70] = 0
    if what == "one weight":
        matrix[:, 1:] = 0
    if what == "no variance":
        variances[:] = 0
    if what == "tiny":
        matrix, variances = matrix * 2.0**-130, variances * 1e-300
    if what == "nan":
        matrix[5, 5], variances[7] = np.nan, np.nan
    if what == "infinite":
        matrix[5, 5] = -np.inf
    with np.errstate(all="ignore"):
        scales = candidates(matrix, kind)
        expected = tried_one_by_one(matrix, scales, variances)
    assert np.array_equal(find_best_scales(matrix, scales, variances), expected, equal_nan=True)


def test_the_error_is_that_of_the_rounded_and_clipped_weights() -> None:
    matrix = np.array([[0.4, -2.6, 200.0]])
    assert measure_quantisation_error(matrix, np.array([1.0]), np.array([1.0, 10.0, 2.0])) == pytest.approx(
        [0.16 + 1.6 + 2 * 73**2]
    )
