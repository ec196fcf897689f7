"""Biases that are left out, empty or computed from the picture: lowered to INT8 like any other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import Net, feeds, ranges, run

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration import collect
from trt_facefusion.quantization.calibration.channels import measure_channel_ranges
from trt_facefusion.quantization.correction.weight_correction import read_layer
from trt_facefusion.quantization.lowering import lower, lower_to_integers
from trt_facefusion.quantization.lowering.equalise import (
    equalise_model,
    find_channel_affines,
    find_equalisable,
    make_scaled_tensors,
)
from trt_facefusion.quantization.precision import plan_by_rules

SHAPES = {"x": (3, 16, 16)}


def network(bias: str) -> onnx.ModelProto:
    net = Net(3)
    x = net.op("Relu", net.conv("x", 3, 16, name="first"))
    given = {
        "none": [],
        "empty": [""],
        "computed": [net.op("ReduceMean", x, net.const([0, 2, 3], np.int64), name="mean", keepdims=0)],
    }[bias]
    weight = net.const(net.rng.normal(0, 0.1, (16, 16, 3, 3)))
    y = net.op("Relu", net.op("Conv", x, weight, *given, name="middle", pads=[1] * 4))
    out = net.op("Sigmoid", net.conv(y, 16, 3, name="head"), name="y")
    return net.model({"x": [1, 3, 16, 16]}, {out: [1, 3, 16, 16]})


@pytest.mark.parametrize("bias", ["none", "empty", "computed"])
def test_a_layer_in_int8_keeps_its_picture(bias: str) -> None:
    model = prepare(network(bias), SHAPES).model
    view, inputs = GraphView(model), feeds(SHAPES, batch=1)
    found = find_channel_affines(view, measure_channel_ranges(model, list(find_equalisable(view)), [inputs]))
    reads = view.nodes["middle"].input[0]
    assert found[reads].shifts == (bias != "computed")
    behind = collect(model, list(found), [inputs], scaled=make_scaled_tensors(found))
    amax = ranges(model, inputs) | {name: histogram.amax for name, histogram in behind.items()}
    plan = plan_by_rules(view, amax, "net")
    assert "middle" in {node.name for node in plan.nodes if node.precision.value == "int8"}
    wanted = run(model, inputs)["y"]
    np.testing.assert_allclose(run(equalise_model(view, ["middle"], found), inputs)["y"], wanted, atol=1e-5)
    for lowered in (
        lower(view, plan, amax, affines=found),
        lower(view, plan, amax),
        lower_to_integers(view, plan, amax, found),
        lower_to_integers(
            view, plan, amax, channels=measure_channel_ranges(model, [view.nodes["middle"].output[0]], [inputs])
        ),
    ):
        np.testing.assert_allclose(run(lowered, inputs)["y"], wanted, atol=0.03)


@pytest.mark.parametrize(("bias", "correctable"), [("none", True), ("empty", True), ("computed", False)])
def test_only_a_bias_that_is_known_is_corrected(bias: str, correctable: bool) -> None:
    view = GraphView(prepare(network(bias), SHAPES).model)
    assert (read_layer(view, "middle", None, 1.0, onnx.TensorProto.FLOAT16) is not None) == correctable
