"""A small FP32 generator with all that a plan distinguishes: two INT8 convolutions, a style linear, a residual add."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.build.tuning.histograms import find_watched_tensors
from trt_facefusion.model.graph import GraphView, PreparedModel, prepare
from trt_facefusion.quantization.calibration import CalibrationTable, collect, parse_rule
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules

IMAGE, STYLE = (3, 16, 16), (8,)
SHAPES = {"image": tuple((n, *IMAGE) for n in (1, 2, 4)), "style": tuple((n, *STYLE) for n in (1, 2, 4))}


def small_generator(batch: int | str = "N") -> PreparedModel:
    rng = np.random.default_rng(3)
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(rng.normal(0, 0.12, shape).astype(np.float32), name))
        return name

    def conv(name: str, source: str, out: int, into: int) -> onnx.NodeProto:
        inputs = [source, weight(f"{name}.w", out, into, 3, 3), weight(f"{name}.b", out)]
        return helper.make_node("Conv", inputs, [f"{name}:0"], name, pads=[1] * 4)

    shape = numpy_helper.from_array(np.array([0, 16, 1, 1]), "shape")
    nodes = [
        conv("first", "image", 16, 3),
        helper.make_node("Relu", ["first:0"], ["first_relu:0"], "first_relu"),
        conv("a", "first_relu:0", 16, 16),
        helper.make_node("Relu", ["a:0"], ["a_relu:0"], "a_relu"),
        conv("b", "a_relu:0", 16, 16),
        helper.make_node("Gemm", ["style", weight("s.w", 16, 8), weight("s.b", 16)], ["s:0"], "s", transB=1),
        helper.make_node("Reshape", ["s:0", "shape"], ["s_wide:0"], "s_wide"),
        helper.make_node("Mul", ["b:0", "s_wide:0"], ["styled:0"], "styled"),
        helper.make_node("Add", ["styled:0", "first_relu:0"], ["sum:0"], "sum"),
        conv("c", "sum:0", 16, 16),
        conv("head", "c:0", 3, 16),
        helper.make_node("Tanh", ["head:0"], ["picture"], "tanh"),
    ]
    floats = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("image", floats, [batch, *IMAGE]),
        helper.make_tensor_value_info("style", floats, [batch, *STYLE]),
    ]
    outputs = [helper.make_tensor_value_info("picture", floats, [batch, *IMAGE])]
    graph = helper.make_graph(nodes, "small", inputs, outputs, [*weights, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return prepare(model, {"image": IMAGE, "style": STYLE})


def batches(count: int = 3, size: int = 2, last: int | None = None) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    sizes = [size] * (count - 1) + [last or size]
    return [
        {
            "image": rng.uniform(-1, 1, (n, *IMAGE)).astype(np.float32),
            "style": rng.normal(0, 1, (n, *STYLE)).astype(np.float32),
        }
        for n in sizes
    ]


class Case:
    """The small generator, calibrated and planned."""

    def __init__(self, batch: int | str = "N", rule: str = "entropy") -> None:
        self.prepared = small_generator(batch)
        self.view = GraphView(self.prepared.model)
        watched, aliases = find_watched_tensors(self.view)
        histograms = collect(self.prepared.model, watched, batches())
        amax = {name: parse_rule(rule)(histogram) for name, histogram in histograms.items()}
        amax |= {name: amax[source] for name, source in aliases.items()}
        self.table = CalibrationTable(amax)
        self.plan: Plan = plan_by_rules(self.view, amax, "small")

    @property
    def model(self) -> bytes:
        return bytes(self.prepared.model.SerializeToString())

    def typed(self, plan: Plan | None = None) -> bytes:
        return bytes(lower(self.view, plan or self.plan, self.table).SerializeToString())
