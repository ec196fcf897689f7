"""Ranges of channels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from trt_facefusion.quantization.calibration.channels import ChannelHistogram, measure_channel_ranges


def negation():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [value("y", TensorProto.FLOAT, ["N", 3, 4, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_ranges_are_those_of_all_batches_in_any_order():
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((n, 3, 4, 4)).astype(np.float32)} for n in (2, 1, 3)]
    found = measure_channel_ranges(negation(), ["y", "x"], batches)
    everything = np.concatenate([b["x"] for b in batches])
    width = 2.0**3 / 512
    for bound, exact in ((found["x"].low, everything.min((0, 2, 3))), (found["y"].high, -everything.min((0, 2, 3)))):
        np.testing.assert_allclose(bound, exact, atol=width)
    again = measure_channel_ranges(negation(), ["y"], batches[::-1])["y"]
    np.testing.assert_array_equal(again.low, found["y"].low)
    np.testing.assert_array_equal(again.high, found["y"].high)


@given(st.permutations(range(6)), st.integers(1, 5))
def test_neither_order_nor_batches_change_a_histogram(order: list[int], size: int):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((2, 60)) * np.exp2(rng.integers(-40, 40, (2, 60)))).astype(np.float32)
    whole, parts = ChannelHistogram(2), ChannelHistogram(2)
    whole.add(values)
    pieces = values.reshape(2, 6, 10)[:, order].reshape(2, -1)
    for start in range(0, 60, 10 * size):
        parts.add(pieces[:, start : start + 10 * size])
    np.testing.assert_array_equal(whole.counts, parts.counts)
    np.testing.assert_array_equal(whole.exponents, parts.exponents)


def test_a_few_outliers_are_left_out_and_zero_is_not():
    values = np.random.default_rng(0).uniform(2, 3, (1, 100_000)).astype(np.float32)
    values[0, :5] = 1000
    histogram = ChannelHistogram(1)
    histogram.add(values)
    found = histogram.ranges()
    assert found.low[0] == 0
    assert 3 <= found.high[0] <= 3 + 1024 / 512
