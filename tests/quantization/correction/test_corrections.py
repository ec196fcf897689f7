"""Corrections of weights and biases: on their grid, and never worse for the layer than rounding to the nearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, feeds, run, tapped

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.channel_affine import Affine
from trt_facefusion.quantization.correction.grid import fake_quantise, find_pair_peaks, quantise_weight
from trt_facefusion.quantization.correction.rounding import InputCovariance, round_weights
from trt_facefusion.quantization.correction.weight_correction import (
    CorrectableLayer,
    Correction,
    InputMoments,
    choose_weight_scales,
    correct_layer,
    read_layer,
    round_to_nearest,
)
from trt_facefusion.quantization.lowering import lower, lower_to_integers
from trt_facefusion.quantization.lowering.equalise import equalise_model
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

SHAPES = {"x": (6, 10, 10)}
KIND = onnx.TensorProto.FLOAT16


def layers(bias: bool = True) -> onnx.ModelProto:
    net = Net(3)
    weight = net.const(net.rng.normal(0, 0.2, (8, 6, 3, 3)))
    inputs = ["x", weight, net.const(net.rng.normal(0, 0.1, 8))] if bias else ["x", weight]
    y = net.op("Relu", net.op("Conv", *inputs, name="conv", pads=[1, 1, 0, 1], strides=[2, 1], dilations=[1, 2]))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y))
    return net.model(
        SHAPES_N,
        {
            net.op(
                "Gemm", pooled, net.const(net.rng.normal(0, 1, (5, 8))), net.const(np.zeros(5)), name="linear", transB=1
            ): ["N", 5]
        },
    )


SHAPES_N = {"x": ["N", 6, 10, 10]}


@cache
def view_of(bias: bool = True) -> GraphView:
    return GraphView(prepare(layers(bias), SHAPES).model)


def activations(view: GraphView, inputs: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    tensor = view.nodes[name].input[0]
    return inputs[tensor] if tensor in inputs else run(tapped(view.model, [tensor]), inputs)[tensor]


def measured(
    view: GraphView, name: str, seed: int = 0, affine: Affine | None = None
) -> tuple[CorrectableLayer, InputMoments, np.ndarray]:
    values = activations(view, feeds(SHAPES, batch=6, seed=seed), name)
    behind = values if affine is None else affine.apply(values)
    layer = read_layer(view, name, affine, float(np.abs(behind).max()), KIND)
    assert layer is not None
    moments = InputMoments(layer)
    moments.add(values)
    return layer, moments, values


def columns_of(layer: CorrectableLayer, values: np.ndarray) -> np.ndarray:
    by_column: dict[int, np.ndarray] = {}
    for columns, factors in layer.columns(values):
        for column, row in zip(range(layer.matrix.shape[1])[columns], factors, strict=True):
            by_column[column] = row
    return np.stack([by_column[column] for column in range(layer.matrix.shape[1])]).astype(np.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["conv", "linear"])
def test_the_matrix_and_its_columns_are_the_node(name: str, bias: bool) -> None:
    view = view_of(bias)
    layer, _, values = measured(view, name)
    output = view.nodes[name].output[0]
    node_output = run(tapped(view.model, [output]), feeds(SHAPES, batch=6))[output]
    product = layer.matrix @ columns_of(layer, layer.inputs(values)) + layer.bias[:, None]
    channels = np.moveaxis(node_output, 1, 0).reshape(len(layer.matrix), -1)
    np.testing.assert_allclose(product, channels, atol=1e-4)


@pytest.mark.parametrize("name", ["conv", "linear"])
def test_no_channel_keeps_a_mean_error_once_its_bias_is_corrected(name: str) -> None:
    layer, moments, values = measured(view_of(), name)
    scale = choose_weight_scales(layer, None)
    exact = layer.inputs(values)
    exact_output = layer.matrix @ columns_of(layer, exact) + layer.bias[:, None]
    quantised_columns = columns_of(layer, fake_quantise(exact, layer.scale))

    def mean_error(moments: InputMoments | None) -> np.ndarray:
        correction = correct_layer(layer, round_to_nearest(layer.matrix, scale), scale, moments)
        weights = correction.values.reshape(len(layer.matrix), -1) * scale.astype(np.float64)[:, None]
        return np.abs((weights @ quantised_columns + correction.bias[:, None] - exact_output).mean(1))

    assert mean_error(moments).max() < 1e-6
    assert mean_error(None).max() > 1e-5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), name=st.sampled_from(["conv", "linear"]))
def test_scales_by_error_are_never_worse_than_scales_by_the_largest_weight(seed: int, name: str) -> None:
    layer, moments, _ = measured(view_of(), name, seed)

    def error(scale: np.ndarray) -> np.ndarray:
        wide = scale.astype(np.float64)[:, None]
        return ((round_to_nearest(layer.matrix, scale) * wide - layer.matrix) ** 2) @ moments.variances

    assert np.all(error(choose_weight_scales(layer, moments)) <= error(choose_weight_scales(layer, None)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_rounding_in_order_beats_rounding_to_the_nearest_and_stays_on_the_grid(seed: int) -> None:
    layer, _, values = measured(view_of(), "conv", seed)
    scale = choose_weight_scales(layer, None)
    covariance = InputCovariance(layer)
    quantised_inputs = fake_quantise(layer.inputs(values), layer.scale)
    covariance.add(quantised_inputs, 10_000)
    steps = round_weights(layer, scale, covariance.matrix())
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() <= INT8_MAX
    inputs = columns_of(layer, quantised_inputs)
    inputs -= inputs.mean(1, keepdims=True)

    def error(steps: np.ndarray) -> float:
        difference = (steps * scale.astype(np.float64)[:, None] - layer.matrix) @ inputs
        return float((difference**2).sum())

    assert error(steps) < error(round_to_nearest(layer.matrix, scale))


def test_inputs_that_vary_little_beside_a_large_mean_are_rounded_as_well() -> None:
    layer, _, values = measured(view_of(), "linear")
    covariance = InputCovariance(layer)
    near = 100 + 1e-4 * values
    covariance.add(near[:3].astype(np.float32), 10_000)
    covariance.add(near[3:].astype(np.float32), 10_000)
    quantised_columns = columns_of(layer, near.astype(np.float32))
    np.testing.assert_allclose(covariance.matrix(), np.cov(quantised_columns, bias=True), rtol=1e-6, atol=1e-15)
    scale = choose_weight_scales(layer, None)
    steps = round_weights(layer, scale, covariance.matrix())
    assert np.abs(steps - round_to_nearest(layer.matrix, scale)).max() <= 2


def test_a_dead_channel_is_rounded_to_the_nearest() -> None:
    layer, _, values = measured(view_of(), "conv")
    values = values.copy()
    values[:, 2] = 0
    covariance = InputCovariance(layer)
    covariance.add(fake_quantise(layer.inputs(values), layer.scale), 10_000)
    scale = choose_weight_scales(layer, None)
    steps = round_weights(layer, scale, covariance.matrix())
    dead = slice(2 * 9, 3 * 9)
    assert np.array_equal(steps[:, dead], round_to_nearest(layer.matrix, scale)[:, dead])


@pytest.mark.parametrize("shifted", [False, True])
def test_every_lowering_carries_the_correction(shifted: bool) -> None:
    view, inputs = view_of(), feeds(SHAPES, batch=6)
    affine = Affine(np.array([1, 0, -1, 0, 0, 2], np.int8), np.array([0.5, 0, -1, 0, 0, 0.25], np.float32))
    affines = {"x": affine} if shifted else {}
    amax = {view.nodes["linear"].input[0]: float(np.abs(activations(view, inputs, "linear")).max()), "x": 5.0}
    amax["x__equalised"] = float(np.abs(affine.apply(inputs["x"])).max())
    plan = plan_by_rules(view, {**amax}, "layers")
    precisions = {"conv": Precision.INT8}
    nodes = tuple(replace(node, precision=precisions.get(node.name, Precision.FP16)) for node in plan.nodes)
    plan = replace(plan, nodes=nodes)
    layer, moments, _ = measured(view, "conv", affine=affines.get("x"))
    scale = choose_weight_scales(layer, moments)
    corrections: dict[str, Correction] = {
        "conv": correct_layer(layer, round_to_nearest(layer.matrix, scale), scale, moments)
    }
    far = {"conv": Correction(corrections["conv"].values, corrections["conv"].scale, corrections["conv"].bias + 1)}
    exact = run(view.model, inputs)
    for make in (
        lambda applied: lower(view, plan, amax, Precision.FP32, affines, applied),
        lambda applied: lower_to_integers(view, plan, amax, affines, applied),
        lambda applied: equalise_model(view, ["conv"], affines, applied),
    ):
        for name, expected in exact.items():
            scale_of = np.abs(expected).max()
            assert np.abs(run(make(corrections), inputs)[name] - expected).max() < 0.05 * scale_of
            assert np.abs(run(make(far), inputs)[name] - expected).max() > 0.05 * scale_of


def test_what_cannot_be_corrected_is_left_alone() -> None:
    net = Net(1)
    weight = net.const(net.rng.normal(0, 0.2, (6, 3, 3, 3)))
    y = net.op("Conv", "x", weight, name="grouped", group=2, pads=[1, 1, 1, 1])
    z = net.op("Conv", y, net.const(net.rng.normal(0, 0.2, (6, 6, 3, 3))), name="auto", auto_pad="SAME_UPPER")
    view = GraphView(prepare(net.model(SHAPES_N, {z: ["N", 6, 10, 10]}), SHAPES).model)
    assert read_layer(view, "grouped", None, 1.0, KIND) is None
    assert read_layer(view, "auto", None, 1.0, KIND) is None


LARGEST_ACTIVATION = 255


def sum_pairs(values: np.ndarray) -> int:
    """The largest sum [O,C,...] of two products in 16 bits, over input channels 2k and 2k + 1 at one tap."""
    wide = np.pad(values.astype(np.int64), [(0, 0), (0, values.shape[1] % 2), *[(0, 0)] * (values.ndim - 2)])
    sums = [np.maximum(sign * wide, 0) for sign in (1, -1)]
    return max(int((s[:, 0::2] + s[:, 1::2]).max()) for s in sums) * LARGEST_ACTIVATION


@given(seed=st.integers(0, 2**16), channels=st.integers(1, 9), taps=st.integers(1, 3), axis=st.sampled_from([0, 1]))
def test_products_of_neighbours_never_saturate(seed: int, channels: int, taps: int, axis: int) -> None:
    weight = np.random.default_rng(seed).laplace(0, 1, (4, channels, taps, taps)).astype(np.float32)
    stored = weight if axis == 0 else weight.swapaxes(0, 1)
    quantised, scale = quantise_weight(stored, axis, KIND, pairs=True)
    assert sum_pairs(quantised if axis == 0 else quantised.swapaxes(0, 1)) < 2**15
    assert np.all(scale >= quantise_weight(stored, axis, KIND)[1])
    np.testing.assert_allclose(find_pair_peaks(stored, axis), find_pair_peaks(weight, 0))


@pytest.mark.parametrize("corrected", [False, True])
def test_corrected_weights_never_saturate_either(corrected: bool) -> None:
    layer, moments, _ = measured(view_of(), "conv")
    layer = replace(layer, pairs=True)
    scale = choose_weight_scales(layer, moments if corrected else None)
    values = correct_layer(layer, round_to_nearest(layer.matrix, scale), scale, moments).values
    assert sum_pairs(values) < 2**15
    plain = choose_weight_scales(replace(layer, pairs=False), None)
    assert sum_pairs(round_to_nearest(layer.matrix, plain).reshape(layer.weight_shape)) >= 2**15
