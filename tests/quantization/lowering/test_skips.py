"""An addition reads what the quantiser left of its skip, where that spares a copy, and is off by no more than that."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.quantization.lowering import FusionRules, apply_fusion_rules
from trt_facefusion.quantization.lowering.skips import quantise_skips

STEP = 0.1
SHAPE = [1, 4, 8, 8]


def residual(*, normalised: bool = True, shifted: bool = True, read_twice: bool = False) -> onnx.ModelProto:
    """relu(x) -> (padded, scaled, shifted,) quantised -> convolution -> (norm) -> added to relu(x), as lowered."""
    rng = np.random.default_rng(0)
    weights = {
        "sizes": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "reciprocals": np.array([1, 2, 4, 0.5], np.float32).reshape(1, -1, 1, 1),
        "offsets": np.array([0.5, -0.25, 0.125, 1], np.float32).reshape(1, -1, 1, 1),
        "step": np.array(STEP, np.float32),
        "zero": np.array(0, np.int8),
        "w": rng.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32),
        "ones": np.ones(4, np.float32),
    }

    def op(kind: str, inputs: list[str], output: str, name: str = "", **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=name or output, **attributes)

    nodes, ready = [op("Relu", ["x"], "r")], "r"
    if shifted:
        nodes += [
            op("Pad", ["r", "sizes"], "p", "r__pad"),
            op("Mul", ["p", "reciprocals"], "m", "r__equalise"),
            op("Sub", ["m", "offsets"], "e", "r__shift"),
        ]
        ready = "e"
    nodes += [
        op("QuantizeLinear", [ready, "step", "zero"], "q"),
        op("DequantizeLinear", ["q", "step", "zero"], "d"),
        op("Conv", ["d", "w"], "c", pads=[0 if shifted else 1] * 4),
    ]
    behind = "c"
    if normalised:
        nodes.append(op("InstanceNormalization", ["c", "ones", "ones"], "n"))
        behind = "n"
    nodes.append(op("Add", ["r", behind], "sum"))
    outputs = [helper.make_tensor_value_info("sum", TensorProto.FLOAT, SHAPE)]
    if read_twice:
        nodes.append(op("Sigmoid", ["r"], "gate"))
        outputs.append(helper.make_tensor_value_info("gate", TensorProto.FLOAT, SHAPE))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "residual", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(1).uniform(-1, 3, SHAPE).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["sum"], {"x": x})[0])


@pytest.mark.parametrize("shifted", [True, False])
def test_the_skip_is_read_from_the_quantiser_and_off_by_half_a_step_of_it(shifted: bool) -> None:
    model = residual(shifted=shifted)
    changed = quantise_skips(model)
    (addition,) = (node for node in changed.graph.node if node.name == "sum")
    assert "r" not in addition.input
    largest_factor = 2 if shifted else 1
    error = np.abs(run(changed) - run(model))
    assert 0 < error.max() <= largest_factor * STEP / 2 + 1e-5
    by_rule = apply_fusion_rules(None, model, FusionRules(quantised_skips=True))  # type: ignore[arg-type]
    assert by_rule.SerializeToString() == changed.SerializeToString()


@pytest.mark.parametrize("changes", [{"normalised": False}, {"read_twice": True}])
def test_it_is_not_where_the_compiler_fuses_the_addition_or_floats_are_written_anyway(changes: dict[str, bool]) -> None:
    model = residual(**changes)
    assert quantise_skips(model) is model
