"""What is never negative is quantised in all 255 steps: half the error, zero still exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import Net, feeds, run
from onnx import numpy_helper

from trt_facefusion.quantization.lowering.unsigned import quantise_unsigned

SHAPES = {"x": (3, 8, 8)}


def quantised(*operators: tuple[str, dict[str, object]]) -> onnx.ModelProto:
    """``operators`` on a convolution's result, and what they give quantised over 0..4 in 127 steps."""
    net = Net()
    y = net.op("Sub", net.conv("x", 3, 4), net.const(0.5))
    for operator, attributes in operators:
        more = [net.const(value, np.float32) for value in attributes.pop("reads", ())]
        y = net.op(operator, y, *more, **attributes)
    grid = [net.const(4 / 127), net.const(0, np.int8)]
    y = net.op("QuantizeLinear", net.op("Identity", y, name="exact"), *grid, name="q")
    y = net.op("DequantizeLinear", y, *grid, name="y")
    return net.model({"x": [1, 3, 8, 8]}, {name: [1, 4, None, None] for name in (y, "exact")})


def list_zero_points(model: onnx.ModelProto) -> set[np.dtype]:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grids = [node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    return {constants[node.input[2]].dtype for node in grids}


@pytest.mark.parametrize(
    "operators",
    [
        [("Relu", {})],
        [("Sigmoid", {}), ("MaxPool", {"kernel_shape": [2, 2]})],
        [("Abs", {}), ("Mul", {"reads": [0.5]}), ("Transpose", {"perm": [0, 1, 3, 2]})],
        [("Clip", {"reads": [0.0, 3.0]})],
    ],
    ids=lambda operators: operators[-1][0],
)
def test_the_error_is_halved_and_zero_stays_zero(operators: list[tuple[str, dict[str, object]]]) -> None:
    model = quantised(*operators)
    rewritten = quantise_unsigned(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert list_zero_points(model) == {np.dtype(np.int8)} and list_zero_points(rewritten) == {np.dtype(np.uint8)}
    before, behind = (run(m, feeds(SHAPES, batch=1), exact=True) for m in (model, rewritten))
    exact = before["exact"]
    errors = [np.abs(found["y"] - exact)[exact > 0] for found in (before, behind)]
    assert errors[1].max() <= 2 / 255 + 1e-6 and errors[1].mean() < 0.6 * errors[0].mean()
    assert not behind["y"][exact == 0].any()


@pytest.mark.parametrize(
    "operators",
    [
        [("LeakyRelu", {"alpha": 0.2})],
        [("Relu", {}), ("Add", {"reads": [-0.1]})],
        [("Relu", {}), ("Sub", {"reads": [0.1]})],
        [("Clip", {"reads": [-1.0, 3.0]})],
        [("Relu", {}), ("Neg", {})],
    ],
    ids=lambda operators: operators[-1][0],
)
def test_what_may_be_negative_keeps_its_grid(operators: list[tuple[str, dict[str, object]]]) -> None:
    model = quantised(*operators)
    assert quantise_unsigned(model) is model
