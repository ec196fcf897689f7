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
from trt_facefusion.quantization.correction.grid import fake_quantise
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
    found: dict[int, np.ndarray] = {}
    for columns, factors in layer.columns(values):
        for column, row in zip(range(layer.matrix.shape[1])[columns], factors, strict=True):
            found[column] = row
    return np.stack([found[column] for column in range(layer.matrix.shape[1])]).astype(np.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["conv", "linear"])
def test_the_matrix_and_its_columns_are_the_node(name: str, bias: bool) -> None:
    view = view_of(bias)
    layer, _, values = measured(view, name)
    output = view.nodes[name].output[0]
    wanted = run(tapped(view.model, [output]), feeds(SHAPES, batch=6))[output]
    found = layer.matrix @ columns_of(layer, layer.inputs(values)) + layer.bias[:, None]
    channels = np.moveaxis(wanted, 1, 0).reshape(len(layer.matrix), -1)
    np.testing.assert_allclose(found, channels, atol=1e-4)


@pytest.mark.parametrize("name", ["conv", "linear"])
def test_no_channel_keeps_a_mean_error_once_its_bias_is_corrected(name: str) -> None:
    layer, moments, values = measured(view_of(), name)
    scale = choose_weight_scales(layer, None)
    exact = layer.inputs(values)
    wanted = layer.matrix @ columns_of(layer, exact) + layer.bias[:, None]
    seen = columns_of(layer, fake_quantise(exact, layer.scale))

    def mean_error(moments: InputMoments | None) -> np.ndarray:
        made = correct_layer(layer, round_to_nearest(layer.matrix, scale), scale, moments)
        weights = made.values.reshape(len(layer.matrix), -1) * scale.astype(np.float64)[:, None]
        return np.abs((weights @ seen + made.bias[:, None] - wanted).mean(1))

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
    seen = fake_quantise(layer.inputs(values), layer.scale)
    covariance.add(seen, 10_000)
    steps = round_weights(layer, scale, covariance.matrix())
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() <= INT8_MAX
    inputs = columns_of(layer, seen)
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
    seen = columns_of(layer, near.astype(np.float32))
    np.testing.assert_allclose(covariance.matrix(), np.cov(seen, bias=True), rtol=1e-6, atol=1e-15)
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
    found: dict[str, Correction] = {"conv": correct_layer(layer, round_to_nearest(layer.matrix, scale), scale, moments)}
    far = {"conv": Correction(found["conv"].values, found["conv"].scale, found["conv"].bias + 1)}
    exact = run(view.model, inputs)
    for make in (
        lambda made: lower(view, plan, amax, Precision.FP32, affines, made),
        lambda made: lower_to_integers(view, plan, amax, affines, made),
        lambda made: equalise_model(view, ["conv"], affines, made),
    ):
        for name, wanted in exact.items():
            scale_of = np.abs(wanted).max()
            assert np.abs(run(make(found), inputs)[name] - wanted).max() < 0.05 * scale_of
            assert np.abs(run(make(far), inputs)[name] - wanted).max() > 0.05 * scale_of


def test_what_cannot_be_corrected_is_left_alone() -> None:
    net = Net(1)
    weight = net.const(net.rng.normal(0, 0.2, (6, 3, 3, 3)))
    y = net.op("Conv", "x", weight, name="grouped", group=2, pads=[1, 1, 1, 1])
    z = net.op("Conv", y, net.const(net.rng.normal(0, 0.2, (6, 6, 3, 3))), name="auto", auto_pad="SAME_UPPER")
    view = GraphView(prepare(net.model(SHAPES_N, {z: ["N", 6, 10, 10]}), SHAPES).model)
    assert read_layer(view, "grouped", None, 1.0, KIND) is None
    assert read_layer(view, "auto", None, 1.0, KIND) is None
