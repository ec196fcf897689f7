"""A zero point for each tensor in place of shifted channels: the same network, nothing padded by a node of its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import run
from onnx import TensorProto, numpy_helper
from test_equalise import equalised_pair, rectified

from trt_facefusion.quantization.calibration.channels import ChannelRanges, measure_channel_ranges
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
    tensors = [found.tensor for found in find_shifted_tensors(shifted)]
    ranges = measure_channel_ranges(view.model, tensors, [inputs], tail=0)
    return view.model, shifted, use_zero_points(shifted, ranges), inputs


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


@pytest.mark.parametrize(("low", "high"), [(-0.2, 1.0), (0.0, 1.0), (-1.0, 0.0), (-3.0, 5.0)])
def test_zero_is_on_the_grid_and_all_channels_fit(low: float, high: float) -> None:
    _, shifted, _, _ = lowered_pair(1)
    found = find_shifted_tensors(shifted)[0]
    span = np.linspace(0.5, 1, len(found.offsets), dtype=np.float32) / found.reciprocals
    ranges = ChannelRanges(low * span, high * span)
    scale, zero = choose_grid(found, ranges, TensorProto.FLOAT)
    kept = 127 * found.scale / ((high - low) / 2)
    bottom, top = -float(zero) * float(scale), (255 - float(zero)) * float(scale)
    assert bottom == pytest.approx((high + low) / 2 - kept * (high - low) / 2, abs=float(scale)) or bottom == 0
    assert top >= (high + low) / 2 + kept * (high - low) / 2 - float(scale)
