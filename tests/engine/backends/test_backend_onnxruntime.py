from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from typed_nets import Net, two_convolutions

from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.onnxruntime import OnnxRuntime, count_weight_bytes
from trt_facefusion.errors import BackendUnavailableError, BuildError


def test_the_typed_model_is_the_engine() -> None:
    model = two_convolutions("N")
    engine = OnnxRuntime().build(BuildRequest(model, {}, "cpu"))
    assert engine.data == model
    assert engine.engine_bytes == len(model)


def test_weights_count_in_the_type_they_are_stored_in() -> None:
    int8, scales, zeros = 16 * 3 * 9 + 16 * 16, 2 * (16 + 16 + 1 + 1), 16 + 16 + 1 + 1
    biases = 2 * (16 + 16)
    assert count_weight_bytes(onnx.load_model_from_string(two_convolutions())) == int8 + scales + zeros + biases


def test_convolutions_behind_fp16_dequantisation_are_reported_as_float() -> None:
    engine = OnnxRuntime().build(BuildRequest(two_convolutions(), {}, "cpu"))
    coverage = find_int8_coverage(
        {"first": "Conv", "second": "Conv"}, engine.kernels, OnnxRuntime.capabilities.math_types
    )
    assert coverage.missing == ("first", "second")
    assert {detail.dtypes for detail in coverage.details} == {"fp32 x fp32 -> fp32"}


def test_operators_that_became_integer_are_found() -> None:
    net = Net(np.float32)
    conv = net.qdq(net.conv("x", "conv", (32, 16, 3, 3)))
    flat = net.op("Flatten", [conv], "flat")
    linear = net.qdq(net.op("Gemm", [net.qdq(flat), net.int8_weight("w", (2048, 64), axis=1)], "linear"))
    last = net.op("MatMul", [linear, net.int8_weight("v", (64, 32), axis=1)], "product")
    engine = OnnxRuntime().build(BuildRequest(net.model([1, 16, 8, 8], last), {}, "cpu"))
    coverage = find_int8_coverage(
        {"conv": "Conv", "linear": "Gemm", "product": "MatMul"}, engine.kernels, OnnxRuntime.capabilities.math_types
    )
    assert coverage.missing == ()
    assert [detail.type for detail in coverage.details] == ["QLinearConv", "QGemm", "MatMulIntegerToFloat"]


def test_an_unknown_operator_is_named() -> None:
    model = onnx.load_model_from_string(two_convolutions())
    model.graph.node.append(helper.make_node("Frobnicate", ["x"], ["y"], name="strange"))
    with pytest.raises(BuildError, match="Frobnicate"):
        OnnxRuntime().build(BuildRequest(model.SerializeToString(), {}, "cpu"))


@pytest.mark.parametrize("model", [b"", b"garbage", two_convolutions()[:200]])
def test_damaged_models_are_refused(model: bytes) -> None:
    with pytest.raises(BuildError):
        OnnxRuntime().build(BuildRequest(model, {}, "cpu"))


def test_gpu_targets_are_refused() -> None:
    with pytest.raises(BackendUnavailableError):
        OnnxRuntime().require("sm86")


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_large_weight_without_its_values_is_refused(damage: str) -> None:
    net = Net(np.float32)
    weight = net.weight("large", np.ones((128, 16, 3, 3), np.float32))
    last = net.op("Conv", ["x", weight], "conv", pads=[1] * 4)
    model = onnx.load_model_from_string(net.model([1, 16, 8, 8], last))
    OnnxRuntime().check(model.SerializeToString())
    large = max(model.graph.initializer, key=lambda tensor: tensor.ByteSize())
    large.raw_data = large.raw_data[:-4] if damage == "cut" else b""
    with pytest.raises(BuildError, match="does not hold the values"):
        OnnxRuntime().check(model.SerializeToString())
