"""A plan lowered for a processor that stores every tensor in integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering.npu import (
    NARROW,
    WIDE,
    TensorGrid,
    list_stored_tensors,
    lower_for_npu,
)
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision

SIZE = 16
FEEDS = {
    "image": np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32),
    "identity": np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32),
}
magnitudes = st.floats(0, 1e6, width=32)


@pytest.fixture(scope="module")
def view() -> GraphView:
    model = tiny.generator(size=SIZE, blocks=1, embedding=8)
    return GraphView(prepare(model, {"image": (3, SIZE, SIZE), "identity": (8,)}).model)


@pytest.fixture(scope="module")
def bounds(view: GraphView) -> dict[str, tuple[float, float]]:
    """What this face really reaches."""
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    names = [name for name in list_stored_tensors(view) if name not in view.input_names]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in view.output_names)
    with OnnxRuntimeRunner(model) as runner:
        values = {**runner.infer(FEEDS), **FEEDS}
    return {name: (min(float(x.min()), 0.0), max(float(x.max()), 0.0)) for name, x in values.items()}


def plan_all(view: GraphView) -> Plan:
    plan = plan_by_rules(view, {}, "tiny")
    return plan.assigned({node.name: (Precision.INT8, "all") for node in plan.nodes if node.quantisable})


def paint(model: onnx.ModelProto) -> np.ndarray:
    with OnnxRuntimeRunner(model, stand_in=True) as runner:
        return runner.infer(FEEDS)["picture"]


def count_steps_off(candidate: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(candidate - reference).max() * 255)


@given(magnitudes, magnitudes, st.sampled_from([NARROW, WIDE]), st.integers(0, 2**31))
def test_a_grid_holds_zero_exactly_and_everything_between_its_bounds(
    below: float, above: float, bits: int, seed: int
) -> None:
    grid = TensorGrid.between(-below, above, bits)
    values = np.random.default_rng(seed).uniform(-below, above, 64).astype(np.float32)
    restored = (grid.quantise(values).astype(np.float64) - int(grid.zero)) * float(grid.scale)
    assert (grid.quantise(np.zeros(1, np.float32)) == grid.zero).all()
    assert (np.abs(restored - values) <= float(grid.scale) * 1.01 + 1e-7 * np.abs(values)).all()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=8), st.sampled_from([NARROW, WIDE]))
def test_what_lies_beyond_a_grid_is_clipped(values: list[float], bits: int) -> None:
    steps = TensorGrid.between(-1.0, 1.0, bits).quantise(np.array(values, np.float32))
    assert steps.dtype.itemsize * 8 == bits


def test_every_operator_stands_between_a_dequantiser_and_a_quantiser(view: GraphView, bounds: dict) -> None:
    model = lower_for_npu(view, plan_all(view), {WIDE: bounds, NARROW: bounds})
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        for name in node.input:
            integers = name in constants and constants[name].data_type != TensorProto.FLOAT
            assert integers or producer[name] == "DequantizeLinear", (node.name, name)
        assert all(readers[name] == {"QuantizeLinear"} for name in node.output), node.name
    assert all(readers[name] == {"QuantizeLinear"} for name in view.input_names)


def test_sixteen_bits_paint_the_picture_and_eight_come_near(view: GraphView, bounds: dict) -> None:
    with OnnxRuntimeRunner(view.model) as runner:
        exact = runner.infer(FEEDS)["picture"]
    plan, both = plan_all(view), {WIDE: bounds, NARROW: bounds}
    wide = count_steps_off(paint(lower_for_npu(view, plan, both)), exact)
    every = [node.name for node in view.float_nodes()]
    narrow = count_steps_off(paint(lower_for_npu(view, plan, both, every)), exact)
    assert wide < 1 < narrow < 4


def test_weights_have_eight_bits_for_each_channel_and_biases_thirty_two(view: GraphView, bounds: dict) -> None:
    model = lower_for_npu(view, plan_all(view), {WIDE: bounds, NARROW: bounds})
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    (stem,) = (node for node in model.graph.node if node.name == "stem")
    producer = {name: node for node in model.graph.node for name in node.output}
    weight, bias = (constants[producer[name].input[0]] for name in stem.input[1:])
    assert weight.data_type == TensorProto.INT8 and bias.data_type == TensorProto.INT32
    scales = [numpy_helper.to_array(constants[producer[name].input[1]]).astype(np.float64) for name in stem.input]
    np.testing.assert_allclose(scales[2], scales[0] * scales[1], rtol=1e-6)
    assert scales[1].shape == (8,)


def test_what_moves_values_keeps_their_grid_and_narrow_nodes_convert(view: GraphView, bounds: dict) -> None:
    model = lower_for_npu(view, plan_all(view), {WIDE: bounds, NARROW: bounds}, ["merge"])
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    grids = {name: [numpy_helper.to_array(constants[i]) for i in node.input[1:]] for name, node in producer.items()
             if node.op_type == "DequantizeLinear" and node.input[0] not in constants}  # fmt: skip
    moved, source = (
        next(n.output[0] for n in view.model.graph.node if n.op_type == op) for op in ("Unsqueeze", "Gemm")
    )
    assert grids[moved] == grids[source]
    (merge,) = (node for node in model.graph.node if node.name == "merge")
    assert grids[merge.input[0]][1].dtype == np.uint8 and grids["merge_out"][1].dtype == np.uint8
    assert producer[producer[merge.input[0]].input[0]].input[0] in grids  # from 16 bits, by a pair of its own


def test_islands_are_fp16_between_casts(view: GraphView, bounds: dict) -> None:
    plan = plan_all(view).raised({"merge": "an island"})
    model = lower_for_npu(view, plan, {WIDE: bounds, NARROW: bounds})
    producer = {name: node for node in model.graph.node for name in node.output}
    (merge,) = (node for node in model.graph.node if node.name == "merge")
    assert producer[merge.input[0]].op_type == "Cast"
    assert next(t for t in model.graph.initializer if t.name == merge.input[1]).data_type == TensorProto.FLOAT16
    with OnnxRuntimeRunner(view.model) as runner:
        assert count_steps_off(paint(model), runner.infer(FEEDS)["picture"]) < 2


def test_the_same_plan_gives_the_same_bytes(view: GraphView, bounds: dict) -> None:
    both = {WIDE: bounds, NARROW: bounds}
    first, second = (lower_for_npu(view, plan_all(view), both, ["head"]).SerializeToString() for _ in range(2))
    assert first == second


def test_a_range_that_is_missing_is_named(view: GraphView, bounds: dict) -> None:
    known = {name: limits for name, limits in bounds.items() if name != "merge_out"}
    with pytest.raises(CalibrationCacheError, match="'merge_out'"):
        lower_for_npu(view, plan_all(view), {WIDE: known, NARROW: known})
