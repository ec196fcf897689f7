"""Exponents of channels that have to be scaled alike: what each tensor would have alone, or what lies between."""

from __future__ import annotations

import numpy as np
import pytest
from nets import Net

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration.channels import ChannelRanges
from trt_facefusion.quantization.folding import find_scale_ties, fold_scales
from trt_facefusion.quantization.folding.choose import choose_exponents
from trt_facefusion.quantization.lowering.equalise import find_channel_affines, find_scaled_reads


def make_view() -> GraphView:
    """A rectifier that a convolution reads, and an addition to it that another convolution reads."""
    net = Net(5)
    x = net.op("Relu", net.conv("x", 3, 4, name="first"), name="trunk")
    y = net.op("Add", x, net.conv(x, 4, 4, name="inner"), name="sum")
    alone = net.op("Relu", net.conv(y, 4, 4, name="outer"), name="alone")
    z = net.op("Sigmoid", net.conv(alone, 4, 2, name="head"))
    return GraphView(prepare(net.model({"x": ["N", 3, 8, 8]}, {z: None}), {"x": (3, 8, 8)}).model)


def test_a_tensor_alone_gets_what_it_wants_and_tensors_that_are_tied_get_what_lies_between() -> None:
    ties = find_scale_ties(make_view())
    factors = {"trunk": [2.0, 0, -2, 0], "sum": [0.0, 2, -2, 0], "alone": [3.0, -3, 1, -1]}
    exponents = choose_exponents(ties, {name: np.array(values) for name, values in factors.items()}, {})
    assert exponents["alone"].tolist() == [3, -3, 1, -1]
    assert exponents["trunk"].tolist() == exponents["sum"].tolist() == [2, 2, -2, 0]


def test_a_channel_that_is_silent_in_one_tensor_does_not_become_loud_in_another() -> None:
    ties = find_scale_ties(make_view())
    factors = {"trunk": np.array([-12.0, 4, 4, 4]), "sum": np.array([1.0, 0, 0, -1])}
    smaller_than_wanted = choose_exponents(ties, factors, {})["sum"] - factors["sum"]
    assert smaller_than_wanted[0] > smaller_than_wanted[1] - 2


def test_a_level_common_to_all_channels_of_a_tensor_does_not_matter() -> None:
    ties = find_scale_ties(make_view())
    shape, level = np.array([2.0, 1, -2, -1]), 7.0
    assert choose_exponents(ties, {"trunk": shape, "sum": shape + level}, {})["sum"].tolist() == shape.tolist()


def test_channels_that_are_fixed_get_exponents_of_their_own() -> None:
    ties = find_scale_ties(make_view())
    exponents = choose_exponents(ties, {"x": np.array([2.0, 0, -2]), "alone": np.array([1.0, 0, 0, -1])}, {})
    assert exponents["x"].tolist() == [2, 0, -2]


@pytest.mark.parametrize("peak, lowest", [(1.0, -5), (2.0**12, -2), (2.0**20, 0)])
def test_no_tensor_is_brought_out_of_the_range_of_fp16(peak: float, lowest: int) -> None:
    ties = find_scale_ties(make_view())
    exponents = choose_exponents(ties, {"alone": np.array([9.0, -9, np.nan, 0])}, {"outer": peak})
    assert exponents["alone"].tolist() == [5, lowest, 0, 0]


def test_scales_even_channels_out_and_all_but_that_of_the_input_are_folded() -> None:
    view = make_view()
    peaks = np.array([1, 8, 0.25, 2], np.float32)
    ranges = {"alone": ChannelRanges(-peaks / 2, peaks), "x": ChannelRanges(-peaks[:3], peaks[:3])}
    affines = find_channel_affines(view, ranges, shift=False)
    scaled = peaks / affines["alone"].factors
    assert scaled.max() / scaled.min() < 6 < peaks.max() / peaks.min()
    folded = fold_scales(view, affines)
    assert list(folded.remaining) == list(folded.refused) == ["x"]
    assert folded.remaining["x"].exponents.any()


def test_a_linear_layer_that_reads_scaled_channels_gets_the_range_of_what_it_reads() -> None:
    """It asks for no scale itself."""
    net = Net(6)
    x = net.op("Relu", net.conv("x", 3, 4, name="first"), name="trunk")
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1, name="pooled")
    gate = net.op("Reshape", net.linear(pooled, 4, 4, name="gate"), net.const([-1, 4, 1, 1], np.int64))
    z = net.op("Sigmoid", net.op("Add", net.conv(x, 4, 4, name="head"), gate))
    view = GraphView(prepare(net.model({"x": ["N", 3, 8, 8]}, {z: None}), {"x": (3, 8, 8)}).model)
    ranges = {"trunk": ChannelRanges(np.zeros(4, np.float32), np.array([1, 8, 0.1, 2], np.float32))}
    affines = find_channel_affines(view, ranges)
    assert affines["trunk"].shifts and affines["trunk"].exponents.any()
    reads = find_scaled_reads(view, affines)
    assert list(reads) == ["pooled"] and not reads["pooled"].shifts
    assert reads["pooled"].exponents.tolist() == affines["trunk"].exponents.tolist()
