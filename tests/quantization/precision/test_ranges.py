"""What the histograms say of FP16: sums that overflow inside of a node, and values that are too small."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import Net

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.precision import PlannedNode, TensorMoments, plan_by_rules
from trt_facefusion.types import Array, Precision

SHAPES = {"x": (4, 8, 8), "s": (6,)}


def planned(net: Net, y: str, values: dict[str, Array]) -> dict[str, PlannedNode]:
    """The plan after calibration saw ``values``."""
    model = net.model({"x": ["N", 4, 8, 8], "s": ["N", 6]}, {y: ["N", "C", "H", "W"]})
    histograms = {}
    for name, array in values.items():
        histograms[name] = Histogram()
        histograms[name].add(array)
    amax = {name: histogram.amax for name, histogram in histograms.items()}
    moments = {name: TensorMoments.of(histogram) for name, histogram in histograms.items()}
    return plan_by_rules(GraphView(prepare(model, SHAPES).model), amax, "net", moments).by_name()


def noise(scale: float) -> Array:
    return np.random.default_rng(0).normal(0, scale, (2, 4, 8, 8)).astype(np.float32)


@given(st.floats(1e-3, 1e3), st.integers(0, 9))
def test_means_are_those_of_the_values_to_a_bin(scale: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0, scale, 5000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    moments = TensorMoments.of(histogram)
    assert moments.mean == pytest.approx(np.abs(values).mean(), rel=0.01)
    assert moments.square == pytest.approx(np.square(values).mean(), rel=0.01)


@pytest.mark.parametrize(("scale", "kept"), [(1.0, False), (400.0, True)])
def test_a_mean_whose_sum_overflows_stays_fp32(scale: float, kept: bool) -> None:
    """64 values of about 320 sum up to 20,000: within the margin of FP16's end, though no tensor comes near it."""
    net = Net()
    y = net.op("GlobalAveragePool", net.conv("x", 4, 4, name="a"), name="pool")
    y = net.conv(net.op("Add", net.op("Relu", "x", name="r"), y, name="add"), 4, 3, name="head")
    found = planned(net, y, {"a": noise(scale), "pool": noise(0.1 * scale)})["pool"]
    assert (found.precision is Precision.FP32) == kept
    assert ("its sum over 64 values reaches" in found.reason) == kept


def test_activations_that_overflow_are_found_without_a_trial() -> None:
    net = Net()
    y = net.op("Relu", net.conv("x", 4, 4, name="a"), name="r")
    values = noise(1.0)
    values[0, 0, 0, 0] = 30_000.0
    found = planned(net, net.conv(y, 4, 3, name="head"), {"a": values, "r": np.abs(values)})
    assert found["a"].precision is found["r"].precision is Precision.FP32
    assert "reaches 3e+04 on faces; FP16 ends at 65504" in found["a"].reason


@pytest.mark.parametrize(
    ("scale", "epsilon", "reason"),
    [
        (1e-3, 1e-3, "its variance is at most"),
        (1.0, 1e-8, "its epsilon 1e-08 loses its digits"),
        (500.0, 1e-3, "its sum of 64 squares reaches"),
        (1.0, 1e-3, "normalisation: its statistics are FP32"),
    ],
)
def test_a_normalisation_stays_fp32_for_what_its_values_say(scale: float, epsilon: float, reason: str) -> None:
    net = Net()
    one, zero = net.const(np.ones(4)), net.const(np.zeros(4))
    y = net.op("InstanceNormalization", net.conv("x", 4, 4, name="a"), one, zero, name="norm", epsilon=epsilon)
    found = planned(net, net.conv(y, 4, 3, name="head"), {"a": noise(scale), "norm": noise(1.0)})["norm"]
    assert found.precision is Precision.FP32 and reason in found.reason


@pytest.mark.parametrize(("scale", "kept"), [(1e-3, True), (1.0, False)])
def test_squares_that_vanish_in_fp16_stay_fp32(scale: float, kept: bool) -> None:
    """The variance of a hand-written normalisation, one step before its mean is taken."""
    net = Net()
    a = net.conv("x", 4, 4, name="a")
    y = net.conv(net.op("Mul", a, a, name="square"), 4, 3, name="head")
    found = planned(net, y, {"a": noise(scale), "square": np.square(noise(scale))})["square"]
    assert (found.precision is Precision.FP32) == kept and ("FP16 loses digits" in found.reason) == kept
