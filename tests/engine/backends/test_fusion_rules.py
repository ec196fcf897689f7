"""TensorRT-RTX fuses what docs/fusion.md says: each rule held against the kernels that it makes of a small network.

A test that fails after an upgrade of TensorRT-RTX says that a rule is no longer needed, or no longer enough.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from nets import SWAPPER_SHAPES, feeds, ranges, swapper
from onnx import TensorProto
from typed_nets import Net, half_net

from trt_facefusion.engine.backends.base import BuildRequest, Kernel
from trt_facefusion.engine.backends.tensorrt_rtx import TensorRtRtx
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.engine.timing.roofline import EnginePrediction, predict_engine
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import FusionRules, apply_fusion_rules, lower
from trt_facefusion.quantization.lowering.weight_scales import share_weight_scales
from trt_facefusion.quantization.precision import plan_by_rules

pytest.importorskip("tensorrt_rtx", reason="pip install 'trt-facefusion[rtx]'")
CHANNELS, SHAPE = 32, [1, 32, 32, 32]
RULES = TensorRtRtx.capabilities.fusion


def compile_kernels(model: bytes) -> dict[str, Kernel]:
    """ONNX node -> the last kernel that names it."""
    engine = TensorRtRtx().build(BuildRequest(model, {}, "sm86"))
    assert engine.kernels_known
    return {node: kernel for kernel in engine.kernels for node in kernel.nodes}


def predict(model: bytes, shapes: dict[str, tuple[int, ...]] | None = None) -> EnginePrediction:
    ranges_of = {name: (shape,) * 3 for name, shape in (shapes or {}).items()}
    return predict_engine(TensorRtRtx().build(BuildRequest(model, ranges_of, "sm86")).kernels, get_gpu("a10g"), 1)


def between_convolutions(*middle: Callable[[Net, str], str]) -> bytes:
    """first (INT8) -> ``middle`` -> second (INT8)."""

    def body(net: Net, x: str) -> str:
        x = net.conv(x, "first", (CHANNELS, CHANNELS, 3, 3))
        for step in middle:
            x = step(net, x)
        return net.conv(x, "second", (CHANNELS, CHANNELS, 3, 3))

    return half_net(body, SHAPE)


def relu(net: Net, x: str) -> str:
    return net.op("Relu", [x], "activation")


def leaky(net: Net, x: str) -> str:
    return net.op("LeakyRelu", [x], "activation", alpha=0.2)


def share(model: bytes) -> bytes:
    return bytes(share_weight_scales(onnx.load_from_string(model)).SerializeToString())


def test_an_int8_convolution_writes_fp16_where_its_weights_have_one_scale() -> None:
    model = between_convolutions(leaky)
    separate, shared = compile_kernels(model)["first"], compile_kernels(share(model))["first"]
    assert separate.type != "correlation" or separate.outputs[0].dtype == "fp32"
    assert (shared.type, shared.inputs[0].dtype, shared.outputs[0].dtype) == ("correlation", "int8", "fp16")
    before, after = predict(model), predict(share(model))
    assert after.moved_bytes < before.moved_bytes and after.launches <= before.launches


@pytest.mark.parametrize("middle", [(), (relu,)])
def test_no_int8_convolution_writes_int8(middle: tuple[Callable[[Net, str], str], ...]) -> None:
    kernels = compile_kernels(share(between_convolutions(*middle)))
    assert kernels["first"].outputs[0].dtype == "fp16"
    assert [t.dtype for t in kernels["second"].inputs] == ["int8"]


def of_one_scale(activation: str) -> dict[str, Kernel]:
    """Kernels of an INT8 convolution whose weights are given one scale from the start, with an activation."""

    def body(net: Net, x: str) -> str:
        weight = net.rng.integers(-127, 127, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
        scale, zero = net.weight("w_scale", np.array(0.01, net.dtype)), net.weight("w_zero", np.array(0, np.int8))
        dequantised = net.op("DequantizeLinear", [net.weight("w", weight), scale, zero], "w_dq")
        bias = net.weight("bias", np.ones(CHANNELS, net.dtype))
        y = net.op(activation, [net.op("Conv", [net.qdq(x), dequantised, bias], "conv", pads=[1] * 4)], "activation")
        return net.op("Conv", [y, net.weight("v", np.ones((8, CHANNELS, 3, 3), net.dtype))], "float", pads=[1] * 4)

    return compile_kernels(half_net(body, SHAPE))


@pytest.mark.parametrize(
    ("activation", "fused"), [("Relu", True), ("Tanh", True), ("Sigmoid", True), ("LeakyRelu", False)]
)
def test_which_activations_an_int8_convolution_keeps(activation: str, fused: bool) -> None:
    kernels = of_one_scale(activation)
    assert (kernels["activation"].name == kernels["conv"].name) == fused


def normed(size: int) -> tuple[GraphView, bytes]:
    """An FP16 convolution, InstanceNormalization in FP32, ReLU and an INT8 convolution, on maps of ``size`` pixels."""

    def body(net: Net, x: str) -> str:
        weight = net.weight("w", net.rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(net.dtype))
        y = net.op("Cast", [net.op("Conv", [x, weight], "first", pads=[1] * 4)], "wide", to=TensorProto.FLOAT)
        ones, zeros = (net.weight(name, np.full(CHANNELS, v, np.float32)) for name, v in (("gamma", 1), ("beta", 0)))
        y = net.op("InstanceNormalization", [y, ones, zeros], "norm")
        y = relu(net, net.op("Cast", [y], "narrow", to=TensorProto.FLOAT16))
        return net.conv(y, "second", (CHANNELS, CHANNELS, 3, 3))

    model = half_net(body, [1, CHANNELS, size, size])
    return GraphView(onnx.shape_inference.infer_shapes(onnx.load_from_string(model))), model


@pytest.mark.parametrize(("size", "kernels_of_norm"), [(16, 2), (32, 1)])
def test_a_flat_normalisation_activation_and_quantiser_are_one_kernel_or_two(size: int, kernels_of_norm: int) -> None:
    view, model = normed(size)
    flat = apply_fusion_rules(view, view.model, FusionRules(flat_norms=True)).SerializeToString()
    before, after = predict(model), predict(flat)
    assert before.launches - after.launches == 3 - kernels_of_norm
    assert after.moved_bytes < before.moved_bytes and after.total_ms < before.total_ms


def test_a_swapper_takes_less_time_in_this_form() -> None:
    view = GraphView(prepare(swapper(width=16), SWAPPER_SHAPES).model)
    amax = ranges(view.model, feeds(SWAPPER_SHAPES))
    typed = lower(view, plan_by_rules(view, amax, "swapper"), amax)
    shapes = {name: (1, *shape) for name, shape in SWAPPER_SHAPES.items()}
    before = predict(typed.SerializeToString(), shapes)
    after = predict(apply_fusion_rules(view, typed, RULES).SerializeToString(), shapes)
    assert after.total_ms < before.total_ms and after.moved_bytes < before.moved_bytes
    written = [p.kernel.outputs[0].dtype for p in after.kernels if p.kernel.type == "correlation"]
    assert "fp32" not in written
