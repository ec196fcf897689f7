"""The forms that a compiler fuses compute what the typed graph computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from nets import SWAPPER_SHAPES, Net, feeds, ranges, run, swapper
from onnx import numpy_helper

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import FusionRules, apply_fusion_rules, lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision

SHAPES = {"x": (3, 16, 16)}
BOTH = FusionRules(shared_weight_scales=True, flat_norms=True)
NORMS = FusionRules(flat_norms=True)
Norm = Callable[[Net, str], str]


def typed_swapper() -> tuple[GraphView, Plan, onnx.ModelProto, dict[str, np.ndarray]]:
    view = GraphView(prepare(swapper(), SWAPPER_SHAPES).model)
    inputs = feeds(SWAPPER_SHAPES)
    amax = ranges(view.model, inputs)
    plan = plan_by_rules(view, amax, "swapper")
    return view, plan, lower(view, plan, amax), inputs


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def count(model: onnx.ModelProto, *op_types: str) -> int:
    return sum(node.op_type in op_types for node in model.graph.node)


def test_without_rules_the_typed_graph_stays_as_it_is() -> None:
    view, _, typed, _ = typed_swapper()
    assert not FusionRules()
    assert apply_fusion_rules(view, typed, FusionRules()) is typed


def test_the_rules_lose_no_more_of_a_picture() -> None:
    view, plan, typed, inputs = typed_swapper()
    fused = apply_fusion_rules(view, typed, BOTH)
    onnx.checker.check_model(fused, full_check=True)
    exact, before, after = (run(model, inputs, exact=True)["output"] for model in (view.model, typed, fused))
    assert np.abs(after - exact).mean() < 1.1 * np.abs(before - exact).mean()
    assert set(plan.names(Precision.INT8)) <= {node.name for node in fused.graph.node}


def test_what_the_graph_says_of_itself_is_kept() -> None:
    view, _, typed, _ = typed_swapper()
    onnx.helper.set_model_props(typed, {"scaled": "channels"})
    assert apply_fusion_rules(view, typed, BOTH).metadata_props == typed.metadata_props


def test_a_shared_scale_keeps_integers_and_the_scale_of_every_channel() -> None:
    view, plan, typed, _ = typed_swapper()
    fused = apply_fusion_rules(view, typed, FusionRules(shared_weight_scales=True))
    before, after = constants_of(typed), constants_of(fused)
    producer = {name: node for node in typed.graph.node for name in node.output}
    convolutions = [
        node for node in typed.graph.node if node.op_type == "Conv" and node.name in plan.names(Precision.INT8)
    ]
    assert len(convolutions) == 2 + 4 + 2
    for conv in convolutions:
        integers, scales, _ = producer[conv.input[1]].input
        assert np.array_equal(after[integers], before[integers])
        shared, factors = after[f"{conv.input[1]}__shared__scale"], after[f"{conv.output[0]}__factors"]
        assert shared.shape == () and np.log2(np.float32(shared)).is_integer()
        assert np.array_equal(factors.reshape(-1).astype(np.float32) * np.float32(shared), before[scales])
        assert factors.max() <= 1


def normed(norm: Norm, offset: float = 0.0) -> tuple[GraphView, onnx.ModelProto, dict[str, np.ndarray]]:
    """A convolution, a normalisation in FP32 of its FP16 result, and another convolution."""
    net = Net()
    y = net.conv("x", 3, 8, name="first")
    y = net.op("Add", y, net.const(np.full((1, 8, 1, 1), offset)), name="moved") if offset else y
    net.op("Identity", net.conv(norm(net, y), 8, 3, name="last"), name="y")
    view = GraphView(prepare(net.model({"x": ["N", 3, 16, 16]}, {"y": ["N", 3, 16, 16]}), SHAPES).model)
    plan = plan_by_rules(view, {}, "net").capped(Precision.FP16)
    inner = [n.name for n in plan.nodes if n.name.startswith("norm")]
    plan = plan.assigned(dict.fromkeys(inner, (Precision.FP32, "held")))
    return view, lower(view, plan, {}), feeds(SHAPES)


def as_operator(net: Net, x: str) -> str:
    gamma, beta = net.const(net.rng.normal(1, 0.5, 8)), net.const(net.rng.normal(0, 1, 8))
    return net.op("InstanceNormalization", x, gamma, beta, name="norm", epsilon=1e-3)


def in_primitives(net: Net, x: str) -> str:
    return net.instance_norm(x, "norm", eps=1e-3)


def with_powers_and_a_reciprocal(net: Net, x: str) -> str:
    axes = net.const([-1, -2], np.int64)
    mean = net.op("ReduceMean", x, axes, name="norm/mean")
    again = net.op("Sub", x, mean, name="norm/again")
    variance = net.op(
        "ReduceMean", net.op("Pow", again, net.const(2.0), name="norm/square"), axes, name="norm/variance"
    )
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-3), name="norm/eps"), name="norm/sqrt")
    inverse = net.op("Reciprocal", deviation, name="norm/inverse")
    return net.op("Mul", net.op("Sub", x, mean, name="norm/centred"), inverse, name="norm/out")


FORMS = [as_operator, in_primitives, with_powers_and_a_reciprocal]


@pytest.mark.parametrize("norm", FORMS)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_flat_normalisation_computes_the_same(norm: Norm, offset: float) -> None:
    view, typed, inputs = normed(norm, offset)
    flat = apply_fusion_rules(view, typed, NORMS)
    onnx.checker.check_model(flat, full_check=True)
    assert count(flat, "InstanceNormalization", "Pow", "Reciprocal") == 0
    assert count(flat, "Reshape") == count(typed, "Reshape") + 1
    before, after = (run(model, inputs, exact=True)["y"] for model in (typed, flat))
    assert np.allclose(before, after, atol=2e-3 * np.abs(before).max())


def test_the_two_readers_of_a_map_have_a_cast_each() -> None:
    view, typed, _ = normed(as_operator)
    flat = apply_fusion_rules(view, typed, NORMS)
    casts = [node.input[0] for node in flat.graph.node if node.op_type == "Cast"]
    assert casts.count("first") == 2


def over_rows(net: Net, x: str) -> str:
    axes = net.const([3], np.int64)
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes, name="norm/mean"), name="norm/centred")
    square = net.op("Mul", centred, centred, name="norm/square")
    variance = net.op("Add", net.op("ReduceMean", square, axes, name="norm/variance"), net.const(1e-3), name="norm/eps")
    return net.op("Div", centred, net.op("Sqrt", variance, name="norm/sqrt"), name="norm/out")


def of_another_mean(net: Net, x: str) -> str:
    axes = net.const([2, 3], np.int64)
    other = net.op("ReduceMean", net.op("Relu", x, name="norm/relu"), axes, name="norm/mean")
    centred = net.op("Sub", x, other, name="norm/centred")
    square = net.op("Mul", centred, centred, name="norm/square")
    variance = net.op("Add", net.op("ReduceMean", square, axes, name="norm/variance"), net.const(1e-3), name="norm/eps")
    return net.op("Div", centred, net.op("Sqrt", variance, name="norm/sqrt"), name="norm/out")


@pytest.mark.parametrize("norm", [over_rows, of_another_mean])
def test_what_only_looks_like_a_normalisation_stays(norm: Norm) -> None:
    view, typed, _ = normed(norm)
    assert apply_fusion_rules(view, typed, NORMS) is typed


def test_factors_of_channels_in_front_of_a_normalisation_cancel_but_for_epsilon() -> None:
    net = Net()
    weight = net.rng.normal(0, 1, (8, 3, 3, 3)) * np.exp2(np.arange(8) - 9).reshape(
        -1, 1, 1, 1
    )  # variances about epsilon
    y = net.op("Conv", "x", net.const(weight), net.const(net.rng.normal(0, 1, 8)), name="first", pads=[1] * 4)
    net.op("Identity", as_operator(net, y), name="y")
    view = GraphView(prepare(net.model({"x": ["N", 3, 16, 16]}, {"y": ["N", 8, 16, 16]}), SHAPES).model)
    inputs = feeds(SHAPES)
    amax = ranges(view.model, inputs)
    plan = plan_by_rules(view, amax, "net")
    plan = plan.assigned({"first": (Precision.INT8, "held"), "norm": (Precision.FP32, "held")})
    typed = lower(view, plan, amax)
    fused = apply_fusion_rules(view, typed, BOTH)
    assert count(fused, "Conv") == 1 and not any(name.endswith("__factors") for name in constants_of(fused))
    before, after = (run(model, inputs, exact=True)["y"] for model in (typed, fused))
    assert np.allclose(before, after, atol=5e-3)
