"""Folded scales: the same outputs bit by bit, every operator of the way by itself, and reasons for what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SWAPPER_SHAPES, Net, feeds, run, swapper, tapped

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.correction.channel_affine import Affine
from trt_facefusion.quantization.folding import FoldedScales, find_scale_ties, fold_scales, unfold_scales
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.equalise import find_equalisable
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

SHAPES = {"x": (3, 8, 8), "style": (5,)}
Way = Callable[[Net, str], str]
"""Nodes between a tensor of 4 channels and what a convolution reads."""


def make_view(way: Way, channels: int = 4) -> GraphView:
    """x -> ``first`` (4 channels) -> ``way`` (``channels``) -> the convolution ``reader``."""
    net = Net(3)
    read = way(net, net.conv("x", 3, 4, name="first"))
    y = net.op("Sigmoid", net.conv(read, channels, 2, 1, name="reader", pads=[0] * 4))
    model = net.model({name: ["N", *shape] for name, shape in SHAPES.items()}, {y: None})
    used = {name for node in model.graph.node for name in node.input}
    for graph_input in [value for value in model.graph.input if value.name not in used]:
        model.graph.input.remove(graph_input)
    return GraphView(prepare(model, {name: shape for name, shape in SHAPES.items() if name in used}).model)


def draw_affines(view: GraphView, seed: int = 0) -> dict[str, Affine]:
    """Any exponents for all that quantised convolutions read."""
    rng, ties = np.random.default_rng(seed), find_scale_ties(view)
    affines = {}
    for tensor in find_equalisable(view):
        count = ties.count_channels(tensor)
        affines[tensor] = Affine(rng.integers(-4, 5, count).astype(np.int8), np.zeros(count, np.float32))
    return affines


def require_equal(view: GraphView, folded: FoldedScales) -> None:
    """All outputs, and all tensors but for their scale, bit by bit."""
    onnx.checker.check_model(folded.view.model, full_check=True)
    assert [node.name for node in folded.view.model.graph.node] == [node.name for node in view.model.graph.node]
    shapes = {name: view.shape(name)[1:] for name in view.input_names}
    scaled = [name for name in folded.exponents if view.is_float(name)]
    inputs = feeds(shapes, batch=2)
    before, behind = (run(tapped(each.model, scaled), inputs) for each in (view, folded.view))
    for name in view.output_names:
        np.testing.assert_array_equal(behind[name], before[name])
    unfolded = run(tapped(unfold_scales(folded.view.model), scaled), inputs)
    for name in scaled:
        np.testing.assert_array_equal(unfolded[name], before[name])
        powers = folded.exponents[name].reshape(1, -1, *(1,) * (before[name].ndim - 2))
        np.testing.assert_array_equal(np.ldexp(behind[name], powers), before[name])


def style(net: Net, channels: int = 4) -> str:
    return net.op("Unsqueeze", net.linear("style", 5, channels, name="style_linear"), net.const([2, 3], np.int64))


def leaky_by_maximum(net: Net, x: str) -> str:
    return net.op("Max", x, net.op("Mul", x, net.const(0.2)))


def adain(net: Net, x: str) -> str:
    return net.adain(x, "style", 4, "norm", 5)


def adain_around_one(net: Net, x: str) -> str:
    normed = net.op("InstanceNormalization", x, net.const(np.ones(4)), net.const(np.zeros(4)))
    gamma = net.op("Split", style(net, 8), axis=1, num_outputs=2, outputs=2, name="halves")
    return net.op("Add", net.op("Mul", net.op("Add", gamma, net.const(1.0)), normed), "halves.1")


def sliced_style(net: Net, x: str) -> str:
    both = style(net, 8)
    parts = [
        net.op("Slice", both, net.const([a], np.int64), net.const([b], np.int64), net.const([1], np.int64))
        for a, b in ((0, 4), (4, 2**31))
    ]
    return net.op("Add", net.op("Mul", x, parts[0]), parts[1])


def batch_norm(net: Net, x: str) -> str:
    values = [net.const(net.rng.uniform(0.5, 2, 4)) for _ in range(4)]
    return net.op("BatchNormalization", net.op("Relu", x), *values)


def residual(net: Net, x: str) -> str:
    y = net.conv(net.op("Relu", x), 4, 4, name="inner")
    return net.op("Add", x, y)


def padded(mode: str) -> Way:
    return lambda net, x: net.op("Pad", x, net.const([0, 0, 1, 2, 0, 0, 2, 1], np.int64), mode=mode)


def resized(mode: str) -> Way:
    return lambda net, x: net.op("Resize", x, "", net.const([1, 1, 2, 2]), mode=mode)


def parametric(net: Net, x: str) -> str:
    return net.op("PRelu", x, net.const(net.rng.uniform(0.1, 0.5, (4, 1, 1))))


def transposed_convolution(net: Net, x: str) -> str:
    weight = net.const(net.rng.normal(0, 0.3, (4, 2, 2, 2)))
    return net.op("ConvTranspose", net.op("Relu", x), weight, net.const([0.1] * 4), strides=[2, 2], group=2)


def two_halves(net: Net, x: str) -> str:
    first = net.op("Split", x, axis=1, num_outputs=2, outputs=2)
    return net.op("Concat", f"{first}.1", first, axis=1)


def squeezed_excitation(net: Net, x: str) -> str:
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    gate = net.op("Sigmoid", net.linear(pooled, 4, 4))
    return net.op("Mul", x, net.op("Reshape", gate, net.const([-1, 4, 1, 1], np.int64)))


PASSED: dict[str, Way] = {
    "Relu": lambda net, x: net.op("Relu", x),
    "LeakyRelu": lambda net, x: net.op("LeakyRelu", x, alpha=0.1),
    "PRelu": parametric,
    "Max of x and 0.2 x": leaky_by_maximum,
    "Clip at zero": lambda net, x: net.op("Clip", x, net.const(0.0)),
    "Resize nearest": resized("nearest"),
    "Resize linear": resized("linear"),
    "Resize cubic": resized("cubic"),
    "MaxPool": lambda net, x: net.op("MaxPool", x, kernel_shape=[2, 2]),
    "AveragePool": lambda net, x: net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "ReduceMean": lambda net, x: net.op("ReduceMean", x, net.const([2, 3], np.int64)),
    "Pad constant": padded("constant"),
    "Pad reflect": padded("reflect"),
    "Pad edge": padded("edge"),
    "Slice of pixels": lambda net, x: net.op(
        "Slice", x, net.const([1, -1], np.int64), net.const([7, -9], np.int64), net.const([2, 3], np.int64),
        net.const([2, -2], np.int64),
    ),
    "Split and Concat of channels": two_halves,
    "Concat of pixels": lambda net, x: net.op("Concat", x, net.op("Relu", x), axis=2),
    "Where": lambda net, x: net.op("Where", net.const([[[True], [False]] * 4], np.bool_), x, net.const(0.3)),
    "Mul by a constant": lambda net, x: net.op("Mul", net.op("Relu", x), net.const(3.0)),
    "Div by a constant": lambda net, x: net.op("Div", net.op("Relu", x), net.const([[[2.0]]] * 4)),
    "Sub of a constant": lambda net, x: net.op("Sub", net.const([[[[0.3]]] * 4]), net.op("Relu", x)),
    "Add of branches": residual,
    "InstanceNormalization": lambda net, x: net.op(
        "InstanceNormalization", x, net.const([1.0, 2, 3, 4]), net.const([0.1, 0, 0, 1])
    ),
    "BatchNormalization": batch_norm,
    "AdaIN": adain,
    "AdaIN with 1 + gamma": adain_around_one,
    "a style without a norm": sliced_style,
    "grouped convolution": lambda net, x: net.conv(net.op("Relu", x), 4, 4, group=2),
    "depthwise convolution": lambda net, x: net.conv(net.op("Relu", x), 4, 4, group=4),
    "ConvTranspose": transposed_convolution,
    "squeeze and excitation": squeezed_excitation,
    "Reshape and back": lambda net, x: net.op(
        "Reshape", net.op("Reshape", x, net.const([0, 4, -1], np.int64)), net.const([0, 4, 8, 8], np.int64)
    ),
    "Transpose of pixels": lambda net, x: net.op("Transpose", x, perm=[0, 1, 3, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED)
@pytest.mark.parametrize("seed", [1, 2])
def test_scales_pass(name: str, seed: int) -> None:
    view = make_view(PASSED[name])
    affines = draw_affines(view, seed)
    tensor = view.nodes["reader"].input[0]
    folded = fold_scales(view, {tensor: affines[tensor]})
    assert not folded.remaining and not folded.refused
    np.testing.assert_array_equal(folded.exponents[tensor], affines[tensor].exponents)
    require_equal(view, folded)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_pixels_made_of_channels_are_scaled_alike(mode: str) -> None:
    view = make_view(lambda net, x: net.op("DepthToSpace", net.conv(x, 4, 12), blocksize=2, mode=mode), channels=3)
    folded = fold_scales(view, draw_affines(view))
    source = folded.exponents[view.producer[view.nodes["reader"].input[0]].input[0]]
    assert len(source) == 12 and len(np.unique(source)) > 1
    assert not set(folded.remaining) & {view.nodes["reader"].input[0]}
    require_equal(view, folded)


def test_blocks_that_become_channels_share_their_scale() -> None:
    view = make_view(lambda net, x: net.op("SpaceToDepth", net.op("Relu", x), blocksize=2), channels=16)
    tensor = view.nodes["reader"].input[0]
    folded = fold_scales(view, {tensor: draw_affines(view)[tensor]})
    np.testing.assert_array_equal(
        folded.exponents[tensor].reshape(4, 4), folded.exponents[tensor][:4][None].repeat(4, 0)
    )
    assert list(folded.remaining) == [tensor]
    require_equal(view, folded)


REFUSED: dict[str, tuple[Way, str]] = {
    "Sigmoid": (lambda net, x: net.op("Sigmoid", x), "Sigmoid"),
    "Tanh": (lambda net, x: net.op("Tanh", x), "Tanh"),
    "Clip at one": (lambda net, x: net.op("Clip", x, net.const(0.0), net.const(1.0)), "Clip"),
    "Pad with ones": (
        lambda net, x: net.op("Pad", x, net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), net.const(1.0)), "Pad"
    ),
    "a square": (lambda net, x: net.op("Mul", x, x), "Mul"),
    "a map of constants": (lambda net, x: net.op("Add", x, net.const(np.ones((1, 1, 8, 8)))), "Add"),
    "Transpose of channels": (
        lambda net, x: net.op("Transpose", net.op("Resize", x, "", net.const([1, 1, 0.5, 1])), perm=[0, 2, 1, 3]),
        "Transpose",
    ),
    "another reader": (lambda net, x: net.op("Add", x, net.op("Exp", x)), "Exp"),
    "an input": (
        lambda net, x: net.op("Concat", "x", net.op("ReduceMax", "x", net.const([1], np.int64)), axis=1), "input"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_sees_the_scale_is_left_alone_and_named(name: str) -> None:
    way, reason = REFUSED[name]
    view = make_view(way)
    affines, tensor = draw_affines(view), view.nodes["reader"].input[0]
    folded = fold_scales(view, {tensor: affines[tensor]})
    assert reason in folded.refused[tensor]
    assert folded.remaining == {tensor: affines[tensor]} and not folded.exponents
    require_equal(view, folded)


def test_a_branch_that_cannot_be_scaled_leaves_the_other_one_free() -> None:
    view = make_view(
        lambda net, x: net.op("Concat", net.op("Tanh", net.conv("x", 3, 4)), net.op("Relu", x), axis=1), channels=8
    )
    tensor = view.nodes["reader"].input[0]
    affine = Affine(np.array([1, 2, 3, 1, 2, -1, 3, 4], np.int8), np.zeros(8, np.float32))
    folded = fold_scales(view, {tensor: affine})
    assert folded.remaining[tensor].exponents.tolist() == [1, 2, 3, 1, 0, 0, 0, 0]
    assert tensor not in folded.refused
    require_equal(view, folded)


def test_a_shift_stays_and_counts_from_the_scaled_values() -> None:
    view = make_view(lambda net, x: net.op("Relu", x))
    tensor = view.nodes["reader"].input[0]
    affine = Affine(np.array([1, -2, 0, 3], np.int8), np.array([0.5, 0.25, 1, 0], np.float32))
    folded = fold_scales(view, {tensor: affine})
    assert not folded.remaining[tensor].exponents.any()
    values = run(tapped(view.model, [tensor]), feeds({"x": SHAPES["x"]}))[tensor]
    scaled = run(tapped(folded.view.model, [tensor]), feeds({"x": SHAPES["x"]}))[tensor]
    np.testing.assert_array_equal(folded.remaining[tensor].apply(scaled), affine.apply(values))


def test_where_two_tensors_disagree_the_first_is_folded_and_the_rest_of_the_other_remains() -> None:
    view = make_view(lambda net, x: net.op("Relu", net.op("Add", x, net.conv(net.op("Relu", x), 4, 4, name="middle"))))
    first, second = view.nodes["middle"].input[0], view.nodes["reader"].input[0]
    affines = {
        name: Affine(np.array(values, np.int8), np.zeros(4, np.float32))
        for name, values in ((first, [1, 1, -1, 2]), (second, [1, 2, 0, 2]))
    }
    folded = fold_scales(view, affines)
    assert list(folded.remaining) == [second]
    assert folded.remaining[second].exponents.tolist() == [0, 1, 1, 0]
    require_equal(view, folded)


@st.composite
def random_nets(draw: st.DrawFn) -> GraphView:
    """Networks of a few nodes, each of which reads what any node before it gives."""
    net = Net(draw(st.integers(0, 99)))
    tensors = [net.conv("x", 3, 4, name="first")]
    ways = [PASSED[name] for name in (
        "Relu", "LeakyRelu", "PRelu", "Max of x and 0.2 x", "AveragePool", "Mul by a constant", "Sub of a constant",
        "Split and Concat of channels", "BatchNormalization", "grouped convolution", "squeeze and excitation",
        "InstanceNormalization",
    )]  # fmt: skip
    for _ in range(draw(st.integers(1, 7))):
        kind, x = draw(st.integers(0, len(ways) + 3)), draw(st.sampled_from(tensors))
        if kind < len(ways):
            before = len(net.nodes)
            y = ways[kind](net, x) if kind != 9 or before == 1 else net.op("Relu", x)
        elif kind == len(ways):
            y = net.op("Sigmoid", x)
        elif kind == len(ways) + 1:
            y = net.op("Mul", x, draw(st.sampled_from(tensors)))
        else:
            y = net.op("Add", x, net.conv(draw(st.sampled_from(tensors)), 4, 4))
        tensors.append(y)
    merged = net.op("Concat", *draw(st.lists(st.sampled_from(tensors), min_size=2, max_size=3)), axis=1)
    channels = 4 * len(net.nodes[-1].input)
    y = net.op("Tanh", net.conv(merged, channels, 2, name="reader"))
    return GraphView(prepare(net.model({"x": ["N", 3, 8, 8]}, {y: None}), {"x": (3, 8, 8)}).model)


@given(random_nets(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_network_gives_the_same_outputs(view: GraphView, seed: int) -> None:
    require_equal(view, fold_scales(view, draw_affines(view, seed)))


def test_a_lowered_graph_is_compared_in_the_scale_of_its_origin() -> None:
    view = make_view(PASSED["Add of branches"])
    folded = fold_scales(view, draw_affines(view))
    inputs = feeds({"x": SHAPES["x"]})
    amax = dict.fromkeys(view.producer, 3.0)
    plan, output = plan_by_rules(view, amax, "net"), view.output_names[0]
    typed = lower(folded.view, plan, amax)
    onnx.checker.check_model(unfold_scales(typed), full_check=True)
    behind, again = (run(model, inputs, exact=True)[output] for model in (typed, unfold_scales(typed)))
    np.testing.assert_allclose(behind, again, atol=1e-3)
    typed = lower(folded.view, plan, amax, Precision.FP32)
    tensors = [name for name in folded.exponents if name in GraphView(typed).producer]
    values, exact = (run(tapped(model, tensors), inputs, exact=True) for model in (unfold_scales(typed), view.model))
    assert len(tensors) > 3
    for name in tensors:
        np.testing.assert_allclose(values[name], exact[name], atol=0.3)
    assert unfold_scales(view.model) is view.model


def test_damaged_metadata_is_refused() -> None:
    model = make_view(PASSED["Relu"]).model
    model.metadata_props.add(key="trt_facefusion.scaled_channels", value="[1")
    with pytest.raises(ModelError, match="damaged"):
        unfold_scales(model)


def test_a_swapper_is_left_with_the_scale_of_its_input_alone() -> None:
    view = GraphView(prepare(swapper(), dict(SWAPPER_SHAPES)).model)
    ties = find_scale_ties(view)
    refused = [node for tensor in find_equalisable(view) if ties.reason(tensor) for node in view.consumers[tensor]]
    assert [node.name for node in refused] == ["stem"]
    require_equal(view, fold_scales(view, draw_affines(view)))


@pytest.mark.parametrize("name", ["reference_baseline", "vintagify_cyclegan_A2B"])
def test_real_networks_give_the_same_pictures(shared_models: Path, name: str) -> None:
    model = onnx.load(shared_models / "generator" / f"{name}.onnx")
    shapes = {
        spec.name: tuple(d.dim_value or 64 for d in spec.type.tensor_type.shape.dim)[1:] for spec in model.graph.input
    }
    view = GraphView(prepare(model, shapes).model)
    folded = fold_scales(view, draw_affines(view))
    assert len(folded.exponents) > 20
    inputs = feeds(shapes, batch=1)
    before, behind = (run(each.model, inputs) for each in (view, folded.view))
    for output in view.output_names:
        np.testing.assert_array_equal(behind[output], before[output])
