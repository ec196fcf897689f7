"""Large maps are thinned inside of the graph, and what is counted is what counting outside of it would give."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import Net, run, tapped

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph import prepare
from trt_facefusion.quantization.calibration import Batches, Histogram, collect
from trt_facefusion.quantization.calibration.channels import ChannelHistogram, sample_ranges
from trt_facefusion.quantization.calibration.collect import measure_shapes
from trt_facefusion.quantization.calibration.taps import ScaledTensor, even_step, make_taps

SIDE, CHANNELS = 128, 16
IMAGES = np.random.default_rng(0).normal(size=(4, 3, SIDE, SIDE)).astype(np.float32)


def large() -> onnx.ModelProto:
    """Maps of four times `SPARSE_VALUES`, and a small one behind them."""
    net = Net()
    wide = net.op("Tanh", net.conv("x", 3, CHANNELS, name="wide"), name="bent")
    net.conv(wide, CHANNELS, 8, name="small", strides=[4, 4])
    return prepare(net.model({"x": ["N", 3, SIDE, SIDE]}, {"small": ["N", 8, 32, 32]}), {"x": (3, SIDE, SIDE)}).model


def batches(size: int, images: np.ndarray = IMAGES) -> Batches:
    return Batches(lambda indices: {"x": images[list(indices)]}, len(images), size)


def behind(channels: int = CHANNELS) -> ScaledTensor:
    rng = np.random.default_rng(1)
    factors = np.exp2(rng.integers(-3, 4, channels)).astype(np.float32)
    return ScaledTensor("behind", factors, rng.choice([-0.5, 0.25, 2.0], channels).astype(np.float32))


def test_only_extremes_and_some_values_of_large_maps_leave_the_graph() -> None:
    model = large()
    added, tensor_taps = make_taps(model, ["wide", "small"], {})
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(added.initializer)
    wide, small = tensor_taps
    assert small.outputs == ("small",)
    values = run(tapped(model, wide.outputs), {"x": IMAGES})
    highest, lowest, part = (values[name] for name in wide.outputs)
    assert highest.shape == lowest.shape == (4, CHANNELS)
    assert part.shape == (4, CHANNELS, SIDE // 2, SIDE // 2) and wide.every == 4


def test_it_is_what_counting_outside_of_the_graph_gives() -> None:
    model, scaled = large(), behind()
    values = run(tapped(model, ["wide"]), {"x": IMAGES})["wide"]
    histograms = collect(model, ["wide", "small"], batches(4), scaled={"wide": (scaled,)}, threads=1)
    assert list(histograms) == ["wide", "small", "behind"]
    outside, moved = Histogram(), Histogram()
    outside.add_sparsely(values)
    moved.add_sparsely(values * scaled.factors.reshape(-1, 1, 1) - scaled.offsets.reshape(-1, 1, 1))
    assert histograms["wide"] == outside and histograms["behind"] == moved
    assert histograms["wide"].amax == np.abs(values).max()


@pytest.mark.parametrize("size", [1, 3])
def test_neither_batches_nor_the_order_change_what_is_counted(size: int) -> None:
    expected = collect(large(), ["wide", "small"], batches(4), scaled={"wide": (behind(),)}, threads=1)
    again = collect(large(), ["wide", "small"], batches(size, IMAGES[::-1]), scaled={"wide": (behind(),)}, threads=1)
    assert again == expected


def test_small_maps_are_scaled_whole() -> None:
    scaled = behind(8)
    values = run(large(), {"x": IMAGES})["small"]
    histogram = collect(large(), ["small"], batches(4), scaled={"small": (scaled,)}, threads=1)["behind"]
    all_values = Histogram()
    all_values.add(values * scaled.factors.reshape(-1, 1, 1) - scaled.offsets.reshape(-1, 1, 1))
    assert histogram == all_values


def test_an_infinite_value_anywhere_is_told() -> None:
    images = IMAGES.copy()
    images[2, :, 77, 33] = 3e38
    with pytest.raises(ModelError, match=r"activation 'wide' .* in batch 2"):
        collect(large(), ["wide"], batches(1, images))


def test_a_look_at_channels_takes_no_large_map_out_of_the_graph_either() -> None:
    model = large()
    values = run(tapped(model, ["wide"]), {"x": IMAGES})["wide"]
    histograms, ranges = sample_ranges(model, ["wide", "small"], ["wide"], batches(1), tail=0.0)
    outside = Histogram()
    outside.add_sparsely(values)
    assert histograms["wide"] == outside
    step = even_step(values.shape[2:], 1024)
    assert step > 1
    part = values[:, :, ::step, ::step].transpose(1, 0, 2, 3).reshape(CHANNELS, -1)
    expected = ChannelHistogram(CHANNELS)
    expected.add(np.ascontiguousarray(part))
    np.testing.assert_array_equal(ranges["wide"].low, expected.ranges(0.0).low)
    np.testing.assert_array_equal(ranges["wide"].high, expected.ranges(0.0).high)


def windowed(tokens: int) -> onnx.ModelProto:
    """A map of four times `SPARSE_VALUES`, cut into rows of ``tokens`` that stand on one axis with the faces."""
    net = Net()
    rows = net.op("Reshape", net.conv("x", 3, CHANNELS), net.const([-1, tokens, CHANNELS], np.int64))
    flat = net.op("Reshape", net.op("Tanh", rows, name="rows"), net.const([-1, CHANNELS], np.int64))
    back = net.op(
        "Reshape", net.op("Sin", flat, name="flat"), net.const([-1, CHANNELS, SIDE, SIDE], np.int64), name="y"
    )
    return prepare(
        net.model({"x": ["N", 3, SIDE, SIDE]}, {back: ["N", CHANNELS, SIDE, SIDE]}), {"x": (3, SIDE, SIDE)}
    ).model


@pytest.mark.parametrize("tokens", [1, 64])
def test_of_tensors_that_share_their_first_axis_with_faces_only_some_values_leave_the_graph(tokens: int) -> None:
    model = windowed(tokens)
    values = run(tapped(model, ["rows", "flat"]), {"x": IMAGES})
    shapes, _ = measure_shapes(model, ["rows", "flat"], batches(2))
    assert shapes == {"rows": (SIDE * SIDE // tokens, tokens, CHANNELS), "flat": (SIDE * SIDE, CHANNELS)}
    added, tensor_taps = make_taps(model, ["rows", "flat"], {}, shapes)
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(added.initializer)
    for tap in tensor_taps:
        *_, part = run(tapped(model, tap.outputs), {"x": IMAGES}).values()
        assert part.size * tap.every == values[tap.tensor].size == 4 * part.size
    histograms = collect(windowed(tokens), ["rows", "flat"], batches(4), threads=1)
    for name, histogram in histograms.items():
        assert histogram.amax == np.abs(values[name]).max()


@pytest.mark.parametrize("tokens", [1, 64])
def test_batches_change_nothing_of_them_either(tokens: int) -> None:
    expected = collect(windowed(tokens), ["rows", "flat"], batches(4), threads=1)
    for size in (1, 3):
        assert collect(windowed(tokens), ["rows", "flat"], batches(size, IMAGES[::-1]), threads=1) == expected


def test_samples_that_come_once_are_all_counted_where_shapes_are_measured() -> None:
    once = ({"x": IMAGES[[index]]} for index in range(len(IMAGES)))
    assert collect(windowed(64), ["rows"], once, threads=1) == collect(windowed(64), ["rows"], batches(1), threads=1)
