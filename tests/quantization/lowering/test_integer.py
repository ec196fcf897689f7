"""What ONNX Runtime makes of a network that was lowered for its integer operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import SWAPPER_SHAPES, Net, feeds, ranges, run, swapper, tapped
from onnx import numpy_helper

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine
from trt_facefusion.engine.backends.kernels import Int8Coverage, find_int8_coverage
from trt_facefusion.engine.backends.onnxruntime import OnnxRuntime
from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration.channels import ChannelRanges
from trt_facefusion.quantization.correction.channel_affine import Affine, name_equalised
from trt_facefusion.quantization.lowering import (
    find_nine_bit_candidates,
    find_storable_results,
    lower,
    lower_to_integers,
)
from trt_facefusion.quantization.lowering.integer import StorageGrid
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision

MATH_TYPES = OnnxRuntime.capabilities.math_types

SHAPES = {"x": (3, 16, 16)}


class Case:
    def __init__(self, model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
        self.source = prepare(model, shapes).model
        self.view = GraphView(self.source)
        self.feeds = feeds(shapes)
        self.amax = ranges(self.source, self.feeds)
        self.plan: Plan = plan_by_rules(self.view, self.amax, "net")
        self.model = lower_to_integers(self.view, self.plan, self.amax)

    def channels(self) -> dict[str, ChannelRanges]:
        """Each result's channels as a calibration sees them, with room for what INT8 makes of them."""
        names = find_storable_results(self.view)
        values = run(tapped(self.source, names), self.feeds)
        return {
            name: ChannelRanges(*(bound(values[name], axis=(0, 2, 3)) for bound in (lowest, highest))) for name in names
        }

    def by_channel(self, nine_bit: tuple[str, ...] = ()) -> onnx.ModelProto:
        return lower_to_integers(self.view, self.plan, self.amax, channels=self.channels(), nine_bit=nine_bit)

    def built(self, model: onnx.ModelProto | None = None) -> tuple[BuiltEngine, Int8Coverage]:
        engine = OnnxRuntime().build(BuildRequest((model or self.model).SerializeToString(), {}, "cpu"))
        planned = {node.name: node.op for node in self.plan.nodes if node.precision is Precision.INT8}
        return engine, find_int8_coverage(planned, engine.kernels, MATH_TYPES)


def lowest(values: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return 1.1 * np.minimum(values.min(axis), 0)


def highest(values: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return 1.1 * np.maximum(values.max(axis), 0)


def chain() -> onnx.ModelProto:
    """Convolutions behind and before each other, a Relu, and a residual."""
    net = Net()
    stem = net.op("Relu", net.conv("x", 3, 8, name="stem"), name="stem.relu")
    inner = net.op("Relu", net.conv(stem, 8, 8, name="a"), name="a.relu")
    inner = net.conv(net.conv(inner, 8, 8, name="b"), 8, 8, name="c")
    net.conv(net.op("Add", stem, inner, name="add"), 8, 3, name="head")
    return net.model({"x": ["N", 3, 16, 16]}, {"head": ["N", 3, 16, 16]})


def shared_bias() -> onnx.ModelProto:
    """Convolutions that share one bias, as exporters write what they found to be equal."""
    net = Net()
    bias = net.const(np.zeros(8))
    x = net.conv("x", 3, 8, name="stem")
    for name in ("a", "b"):
        weight = net.const(net.rng.normal(0, 0.1, (8, 8, 3, 3)))
        x = net.op("Conv", x, weight, bias, name=name, pads=[1] * 4)
    net.conv(x, 8, 3, name="head")
    return net.model({"x": ["N", 3, 16, 16]}, {"head": ["N", 3, 16, 16]})


def test_layers_that_share_a_bias_are_lowered() -> None:
    case = Case(shared_bias(), SHAPES)
    onnx.checker.check_model(case.model, full_check=True)
    assert case.plan.names(Precision.INT8) == ("a", "b")
    (exact,) = run(case.source, case.feeds).values()
    (result,) = run(case.model, case.feeds).values()
    assert np.abs(result - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("make", [lambda: Case(swapper(), SWAPPER_SHAPES), lambda: Case(chain(), SHAPES)])
def test_every_planned_int8_node_becomes_an_integer_operator(make) -> None:
    case = make()
    engine, coverage = case.built()
    assert coverage.planned >= 3
    assert coverage.missing == ()
    math = [kernel for kernel in engine.kernels if kernel.is_math(MATH_TYPES)]
    floats = {kernel.type for kernel in math if not kernel.is_int8_math(MATH_TYPES)}
    assert floats <= {"Conv", "FusedConv", "Gemm", "MatMul"}


def test_the_picture_is_that_of_the_quantisation_for_gpus_but_for_the_stored_results() -> None:
    case = Case(chain(), SHAPES)
    expected = run(case.source, case.feeds)["head"]
    usual = run(lower(case.view, case.plan, case.amax, Precision.FP32), case.feeds)["head"]
    exact = run(case.model, case.feeds, exact=True)["head"]
    fused = run(case.model, case.feeds)["head"]
    assert np.abs(fused - exact).max() < case.amax["head"] / 127  # a step, where a value lies between two
    assert np.abs(fused - expected).max() < 4 * np.abs(usual - expected).max() + case.amax["head"] / 127


def test_a_relu_has_all_steps_for_its_positive_half() -> None:
    case = Case(chain(), SHAPES)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer}
    assert constants["a.relu__stored__scale"] == pytest.approx(case.amax["a.relu"] / 255, rel=1e-6)
    assert constants["b__stored__scale"] == pytest.approx(case.amax["b"] / 127, rel=1e-6)
    quantisers = [node for node in case.model.graph.node if node.op_type == "QuantizeLinear"]
    assert not any(node.input[0] == "a" for node in quantisers)


def test_what_is_stored_is_quantised_once() -> None:
    case = Case(chain(), SHAPES)
    nodes = {node.name: node for node in case.model.graph.node}
    assert nodes["c"].input[0] == "b"  # what `b` dequantised
    assert nodes["b"].input[0] == "a.relu"


def test_a_channel_without_weights_keeps_its_bias() -> None:
    case = Case(chain(), SHAPES)
    weight, bias = case.view.nodes["b"].input[1:]
    for tensor in case.source.graph.initializer:
        if tensor.name == weight:
            values = numpy_helper.to_array(tensor).copy()
            values[2] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, weight))
    view = GraphView(case.source)
    amax = ranges(case.source, case.feeds)
    model = lower_to_integers(view, case.plan, amax)
    picture = run(model, case.feeds)["head"]
    assert np.abs(picture - run(case.source, case.feeds)["head"]).max() < 0.1 * amax["head"]
    assert np.abs(view.constant(bias)[2]) > 0


def test_a_result_without_a_range_stays_float_and_an_input_without_one_is_an_error() -> None:
    case = Case(chain(), SHAPES)
    all_but_c = {name: value for name, value in case.amax.items() if name != "c"}
    model = lower_to_integers(case.view, case.plan, all_but_c)
    assert not any(node.name.startswith("c__stored") for node in model.graph.node)
    assert np.isfinite(run(model, case.feeds)["head"]).all()
    with pytest.raises(CalibrationCacheError, match=r"a\.relu|'stem\.relu'"):
        lower_to_integers(case.view, case.plan, {name: v for name, v in all_but_c.items() if "relu" not in name})


def test_equalised_channels_and_stored_results_have_scales_of_their_own() -> None:
    case = Case(chain(), SHAPES)
    offsets = np.array([0.5, 0, -0.25, 0, 0, 0, 0, 1], np.float32)
    affine = Affine(np.array([3, -3, 0, 0, 1, -1, 0, 0], np.int8), offsets)
    amax = {**case.amax, name_equalised("b"): float(np.abs(affine.apply(run_tapped(case, "b"))).max())}
    model = lower_to_integers(case.view, case.plan, amax, {"b": affine})
    error = np.abs(run(model, case.feeds)["head"] - run(case.source, case.feeds)["head"]).max()
    assert error < 0.1 * case.amax["head"]


def run_tapped(case: Case, tensor: str) -> np.ndarray:
    return run(tapped(case.source, [tensor]), case.feeds)[tensor]


def uneven() -> onnx.ModelProto:
    """Convolutions whose channels differ a hundredfold, read by what is not a convolution; one has no bias."""
    net = Net()
    stem = net.conv("x", 3, 8, name="stem")
    weight = net.const(net.rng.normal(0, 0.2, (8, 8, 3, 3)) * np.logspace(-2, 0, 8).reshape(-1, 1, 1, 1))
    body = net.op("Conv", net.op("Sigmoid", stem), weight, name="body", pads=[1] * 4)
    out = net.op("Relu", net.conv(net.op("Tanh", body), 8, 8, name="out"), name="rectified")
    net.conv(net.op("Sqrt", out, name="root"), 8, 3, name="head")
    return net.model({"x": ["N", 3, 16, 16]}, {"head": ["N", 3, 16, 16]})


def channel_steps(constants: dict[str, np.ndarray], result: str) -> np.ndarray:
    return (constants[f"{result}__factors"] * constants[f"{result}__part0__stored__scale"]).ravel()


def error_of(case: Case, model: onnx.ModelProto, tensor: str) -> np.ndarray:
    """The error [C] of ``tensor``, by channel, where only its own storing counts: the inputs' quantisation is alike."""
    usual = run(tapped(lower(case.view, case.plan, case.amax, Precision.FP32), [tensor]), case.feeds)[tensor]
    stored = run(tapped(model, [tensor]), case.feeds, exact=True)[tensor]
    return np.abs(stored - usual).max(axis=(0, 2, 3))


def test_every_channel_is_stored_on_a_grid_of_its_own() -> None:
    case = Case(uneven(), SHAPES)
    model, ranges_of = case.by_channel(), case.channels()
    _, coverage = case.built(model)
    assert coverage.missing == () and coverage.planned == 2
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    body = ranges_of["body"].high - ranges_of["body"].low
    assert channel_steps(constants, "body") == pytest.approx(body / 255, rel=1e-5)
    highest = ranges_of["rectified"].high
    assert channel_steps(constants, "rectified") == pytest.approx(highest / 255, rel=1e-5, abs=1e-7)
    assert "rectified__zeros" not in constants
    assert (error_of(case, model, "body") <= 0.51 * body / 255 + 1e-6).all()
    assert error_of(case, case.model, "body").min() > 2 * error_of(case, model, "body").min()


def test_two_operators_store_the_sum_of_nine_bits() -> None:
    case = Case(uneven(), SHAPES)
    model = case.by_channel(nine_bit=("body",))
    engine, coverage = case.built(model)
    assert coverage.missing == ()
    assert sum(kernel.nodes == ("body",) and kernel.is_int8_math(MATH_TYPES) for kernel in engine.kernels) == 2
    bounds = case.channels()["body"]
    assert (error_of(case, model, "body") <= 0.51 * (bounds.high - bounds.low) / 510 + 1e-6).all()
    fused, exact = run(model, case.feeds)["head"], run(model, case.feeds, exact=True)["head"]
    assert np.abs(fused - exact).max() < 2 * case.amax["head"] / 127


def test_what_an_int8_convolution_reads_as_it_is_keeps_that_ones_scale() -> None:
    case = Case(chain(), SHAPES)
    model = case.by_channel(nine_bit=tuple(find_storable_results(case.view)))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert constants["b__stored__scale"] == pytest.approx(case.amax["b"] / 127, rel=1e-6)
    assert "b__factors" not in constants and "c__factors" in constants
    assert case.built(model)[1].missing == ()
    nine_bit = find_nine_bit_candidates(case.view, case.plan, case.amax, {}, case.channels())
    assert nine_bit == ["c"]  # `b` is read as it is, and of `a` only the Relu behind is stored


@given(
    low=st.lists(st.floats(-1e3, 0, width=32), min_size=4, max_size=4),
    high=st.lists(st.floats(0, 1e3, width=32), min_size=4, max_size=4),
    parts=st.sampled_from([1, 2]),
)
def test_a_channels_grid_holds_zero_and_all_of_its_range(low: list[float], high: list[float], parts: int) -> None:
    bounds = ChannelRanges(np.array(low, np.float32), np.array(high, np.float32))
    store = StorageGrid.of_channels(bounds, parts)
    steps = store.steps.astype(np.float64)
    assert (store.steps > 0).all() and (store.zeros >= 0).all() and (store.zeros <= 255 * parts).all()
    for bound in (bounds.low, bounds.high):
        integers = np.clip(np.rint(bound / steps) + store.zeros, 0, 255 * parts)
        assert (np.abs((integers - store.zeros) * steps - bound) <= 1.001 * steps).all()
