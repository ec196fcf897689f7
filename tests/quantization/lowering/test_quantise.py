from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from trt_facefusion.quantization.correction.grid import quantise_weight, round_scale

KINDS = [TensorProto.FLOAT, TensorProto.FLOAT16]
WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-100, 100, width=32)
)


@given(WEIGHTS, st.sampled_from([0, 1]), st.sampled_from(KINDS), st.sampled_from([1e-4, 1e-2, 1.0, 100.0]))
def test_weights_are_at_most_half_a_step_off_and_not_clipped(
    weight: np.ndarray, axis: int, kind: int, factor: float
) -> None:
    weight = weight * np.float32(factor)
    values, scale = quantise_weight(weight, axis, kind)
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = scale.astype(np.float64).reshape(shape)
    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max() <= 127
    assert np.all(np.abs(values * steps - weight) <= steps * 0.5001)


@given(st.floats(1e-12, 65_000), st.sampled_from(KINDS))
def test_stored_scales_are_never_too_small_nor_nothing_nor_infinite(wanted: float, kind: int) -> None:
    wanted32 = np.float32(wanted)
    stored = round_scale(wanted32, kind)
    assert stored.shape == ()
    assert stored.dtype == (np.float32 if kind == TensorProto.FLOAT else np.float16)
    assert 0 < stored < np.inf
    assert stored.astype(np.float32) >= wanted32
    if wanted > 2**-14 or kind == TensorProto.FLOAT:
        assert stored.astype(np.float32) <= wanted32 * 1.001


@pytest.mark.parametrize("kind", KINDS)
def test_zero_has_a_scale(kind: int) -> None:
    assert round_scale(np.float32(0), kind) > 0
    values, scale = quantise_weight(np.zeros((2, 3), np.float32), 0, kind)
    assert not values.any()
    assert (scale > 0).all()


def test_each_channel_has_its_own_scale() -> None:
    weight = np.array([[1.0, -127.0], [0.5, 0.25]], np.float32)
    assert quantise_weight(weight, 0, TensorProto.FLOAT)[1] == pytest.approx([1, 0.5 / 127])
    assert quantise_weight(weight, 1, TensorProto.FLOAT)[1] == pytest.approx([1 / 127, 1])
