"""A zero point for each tensor in place of shifted channels: the same network, nothing padded by a node of its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import run
from onnx import TensorProto, numpy_helper
from test_equalise import equalised_pair, rectified

from trt_facefusion.quantization.calibration.channels import ChannelHistogram, sample_channels
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.zero_points import choose_grid, find_shifted_tensors, use_zero_points
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

SHAPES = {"x": (3, 16, 16)}


def lowered_pair(
    strides: int, base: Precision = Precision.FP32
) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    """A rectified network in FP32, with shifted channels, and about zero points; and what it is fed."""
    view, inputs, affines, amax = equalised_pair(rectified(strides), SHAPES)
    shifted = lower(view, plan_by_rules(view, amax, "net"), amax, base, affines)
    factors = {found.tensor: found.reciprocals for found in find_shifted_tensors(shifted)}
    channels = sample_channels(view.model, (), list(factors), [inputs])[1]
    bounds = {name: channels[name].measure_tails(factor, 0) for name, factor in factors.items()}
    return view.model, shifted, use_zero_points(shifted, bounds), inputs


@pytest.mark.parametrize("strides", [1, 2])
def test_the_network_stays_the_same_also_at_its_border(strides: int) -> None:
    exact, shifted, rewritten, inputs = lowered_pair(strides)
    pictures = [run(model, inputs, exact=True)["y"] for model in (exact, shifted, rewritten)]
    error, rewritten_error = (np.abs(picture - pictures[0]) for picture in pictures[1:])
    assert rewritten_error.mean() < 2 * error.mean() and rewritten_error[..., 0].mean() < 2 * error.mean()


@pytest.mark.parametrize("base", [Precision.FP16, Precision.FP32])
def test_no_node_pads_or_shifts_any_more(base: Precision) -> None:
    _, shifted, rewritten, _ = lowered_pair(1, base)
    onnx.checker.check_model(rewritten, full_check=True)
    assert find_shifted_tensors(shifted) and not find_shifted_tensors(rewritten)
    operators = {node.op_type for node in rewritten.graph.node}
    assert {"Pad", "Sub"} <= {node.op_type for node in shifted.graph.node} and not {"Pad", "Sub"} & operators
    zeros = [numpy_helper.to_array(t) for t in rewritten.graph.initializer if t.data_type == TensorProto.UINT8]
    assert zeros and all(zero.shape == () and zero < 128 for zero in zeros)


def test_tensors_without_a_range_stay_as_they_are() -> None:
    _, shifted, _, _ = lowered_pair(1)
    assert use_zero_points(shifted, {}) == shifted


@pytest.mark.parametrize(("low", "high"), [(-0.2, 1.0), (0.0, 1.0), (-1.0, 0.0), (-3.0, 5.0), (0.0, 0.0)])
@pytest.mark.parametrize("element_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_zero_is_on_the_grid_and_both_ends_are_within_a_step(low: float, high: float, element_type: int) -> None:
    scale, zero = choose_grid(low, high, element_type)
    step = float(scale)
    assert zero.dtype == np.uint8 and step > 0
    assert -float(zero) * step == pytest.approx(low, abs=step) and (255 - float(zero)) * step >= high - step


@given(seed=st.integers(0, 2**16), tail=st.sampled_from([0.0, 0.01, 0.1]))
def test_tails_are_those_of_all_scaled_channels_together(seed: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(0, 1, (3, 4000)) * [[0.1], [1], [30]]).astype(np.float32)
    factors = np.array([8, 1, 0.0625], np.float32)
    histogram = ChannelHistogram(3)
    histogram.add(values)
    low, high = histogram.measure_tails(factors, tail)
    scaled = values * factors[:, None]
    resolution = float(np.abs(scaled).max()) / 128
    assert low == pytest.approx(np.quantile(scaled, tail), abs=resolution)
    assert high == pytest.approx(np.quantile(scaled, 1 - tail), abs=resolution)
