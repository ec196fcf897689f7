"""Engines that OpenVINO really builds and runs on this CPU."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from typed_nets import Net, half_net, two_convolutions

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, RunOptions
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.openvino import OpenVino
from trt_facefusion.engine.backends.processor import name_instructions
from trt_facefusion.engine.runtime.base import StatesLayerTimes, StatesShapes
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BackendUnavailableError, BuildError, DeviceError

pytest.importorskip("openvino", reason="OpenVINO is not installed")

EXACT = 64 if OpenVino().capabilities.adds_pairs_in_16_bits else 127
"""With more steps, sums of two products may saturate on this processor."""


def compile_for_cpu(model: bytes) -> BuiltEngine:
    return OpenVino().build(BuildRequest(model, {}, "cpu"))


def every_kind() -> bytes:
    """A convolution, a transposed one, a linear layer and a matrix product, all with Q/DQ in front."""
    net = Net(np.float32, EXACT)
    conv = net.op("Relu", [net.conv("x", "conv", (32, 16, 3, 3))], "relu")
    up = net.op("ConvTranspose", [net.qdq(conv), net.int8_weight("u", (32, 16, 2, 2), axis=1)], "up", strides=[2, 2])
    flat = net.op("Flatten", [up], "flat")
    linear = net.op("Gemm", [net.qdq(flat), net.int8_weight("w", (16 * 16 * 16, 64), axis=1)], "linear")
    return net.model([1, 16, 8, 8], net.op("MatMul", [net.qdq(linear), net.int8_weight("v", (64, 32), axis=1)], "mul"))


def test_int8_kernels_are_proven_by_the_graph_that_runs() -> None:
    engine = compile_for_cpu(every_kind())
    planned = {"conv": "Conv", "up": "ConvTranspose", "linear": "Gemm", "mul": "MatMul"}
    coverage = find_int8_coverage(planned, engine.kernels, OpenVino().capabilities.math_types)
    proven = {detail.node: detail.type for detail in coverage.details if detail.is_int8}
    assert proven.items() >= {"conv": "Convolution", "linear": "FullyConnected", "mul": "FullyConnected"}.items()
    assert "up" in proven or not OpenVino().capabilities.transposes_in_int8
    tactics = {kernel.tactic.lower()[-2:] for kernel in engine.kernels if set(kernel.nodes) & proven.keys()}
    assert tactics == {"i8"}


def test_what_runs_in_float_is_reported_as_float() -> None:
    net = Net(np.float32)
    weight = net.weight("w", np.ones((16, 3, 3, 3), np.float32))
    engine = compile_for_cpu(net.model([1, 3, 8, 8], net.op("Conv", ["x", weight], "plain", pads=[1] * 4)))
    (detail,) = find_int8_coverage({"plain": "Conv"}, engine.kernels, OpenVino().capabilities.math_types).details
    assert (detail.is_int8, detail.dtypes) == (False, "fp32 x fp32 -> fp32")


def test_control_c_is_no_crash_when_engines_came_and_went() -> None:
    """Each `Core` changes the stack for signals: of two that end as they came, the last leaves one that is freed."""
    engines = [OpenVino().open(compile_for_cpu(two_convolutions()).data, RunOptions()) for _ in range(2)]
    for engine in engines:
        engine.close()
    gc.collect()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_names_that_hold_commas_are_found() -> None:
    net = Net(np.float32)
    engine = compile_for_cpu(net.model([1, 16, 8, 8], net.conv("x", "block/conv,1", (16, 16, 3, 3))))
    coverage = find_int8_coverage({"block/conv,1": "Conv"}, engine.kernels, OpenVino().capabilities.math_types)
    assert coverage.missing == ()


@pytest.mark.parametrize("model", [two_convolutions(steps=EXACT), every_kind()], ids=["two", "every kind"])
def test_its_results_are_those_of_the_typed_graph(model: bytes) -> None:
    """But for single values that FP16 or another order of sums puts on the other side of a step."""
    shape = tuple(a.dim_value for a in onnx.load_model_from_string(model).graph.input[0].type.tensor_type.shape.dim)
    feeds = {"x": np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)}
    with (
        OpenVino().open(compile_for_cpu(model).data, RunOptions(threads=1)) as engine,
        OnnxRuntimeRunner(model, threads=1, optimise=False, stand_in=True) as typed,
    ):
        (ours,), (theirs,) = engine.infer(feeds).values(), typed.infer(feeds).values()
    assert np.abs(ours - theirs).mean() < 0.002 * np.abs(theirs).max()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_largest_products_do_not_saturate(kernel: int, sign: int) -> None:
    net = Net(np.float32)
    scale, zero = net.weight("s", np.full(8, 0.01, np.float32)), net.weight("z", np.zeros(8, np.int8))
    values = net.weight("v", np.full((8, 32, kernel, kernel), sign * EXACT, np.int8))
    weight = net.op("DequantizeLinear", [values, scale, zero], "weight", axis=0)
    last = net.op("Conv", [net.qdq("x", 0.01), weight], "conv")
    engine = compile_for_cpu(net.model([1, 32, 8, 8], last))
    with OpenVino().open(engine.data, RunOptions()) as runner:
        (result,) = runner.infer({"x": np.full((1, 32, 8, 8), 1.27, np.float32)}).values()
    np.testing.assert_allclose(result, sign * 1.27 * EXACT * 0.01 * 32 * kernel**2, rtol=1e-4)


def test_inputs_and_outputs_keep_their_names_and_the_range_of_batches() -> None:
    ranges = {"x": ((1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))}
    engine = OpenVino().build(BuildRequest(two_convolutions("batch"), ranges, "cpu"))
    with OpenVino().open(engine.data, RunOptions()) as runner:
        specs = [str(spec) for spec in (*runner.inputs, *runner.outputs)]
        assert specs == ["x: float32 [N, 3, 16, 16]", "cast_out:out: float32 [N, 16, 8, 8]"]
        assert isinstance(runner, StatesShapes) and runner.shape_ranges == {"x": (ranges["x"][0], ranges["x"][2])}


def test_an_engine_is_pinned_to_this_processor_and_refused_elsewhere() -> None:
    engine = compile_for_cpu(two_convolutions())
    assert engine.pins.instructions == name_instructions()
    for ours, other in ((b"ov=20", b"ov=19"), (b"isa=", b"isb=")):
        assert ours in engine.data
        with pytest.raises(DeviceError, match="OpenVINO refused the engine") as error:
            OpenVino().open(engine.data.replace(ours, other), RunOptions())
        assert "trt-ff build" in error.value.remedy and "src/" not in error.value.message


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: b"garbage", lambda d: d[:200], lambda d: d[: len(d) // 2]])
def test_a_damaged_engine_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DeviceError, match="OpenVINO refused the engine"):
        OpenVino().open(damage(compile_for_cpu(two_convolutions()).data), RunOptions())


def test_layers_are_timed_under_the_names_of_the_kernels() -> None:
    engine = compile_for_cpu(two_convolutions())
    with OpenVino().open(engine.data, RunOptions(layers=True)) as runner:
        assert isinstance(runner, StatesLayerTimes)
        times = dict(runner.layer_times({"x": np.zeros((1, 3, 16, 16), np.float32)}))
    convolutions = {kernel.name for kernel in engine.kernels if kernel.type == "Convolution"}
    assert convolutions <= times.keys() and all(time_ms >= 0 for time_ms in times.values())
    assert times.keys() <= {kernel.name for kernel in engine.kernels}


def test_fp16_is_told_to_be_computed_in_fp32() -> None:
    half = half_net(lambda net, x: net.op("Relu", [x], "relu"), [1, 3, 8, 8])
    assert "FP16 in FP32" in compile_for_cpu(half).notes[0]
    assert compile_for_cpu(two_convolutions()).notes == ()


def test_an_unknown_operator_is_named() -> None:
    model = onnx.load_model_from_string(two_convolutions())
    model.opset_import.append(helper.make_opsetid("strange", 1))
    model.graph.node.append(helper.make_node("Frobnicate", ["x"], ["y"], name="strange", domain="strange"))
    model.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]))
    with pytest.raises(BuildError, match="Frobnicate"):
        OpenVino().check(model.SerializeToString())


@pytest.mark.parametrize("model", [b"", b"garbage", two_convolutions()[:200]])
def test_damaged_models_are_refused(model: bytes) -> None:
    with pytest.raises(BuildError):
        OpenVino().build(BuildRequest(model, {}, "cpu"))


def test_gpu_targets_are_refused() -> None:
    with pytest.raises(BackendUnavailableError):
        OpenVino().require("sm86")


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("flags : sse4_1 avx2 avx512bw avx512_vnni amx_int8", "amx"),
        ("flags : sse4_1 avx2 avx512bw avx512_vnni", "avx512_vnni"),
        ("flags : sse4_1 avx2 avx_vnni", "avx2_vnni"),
        ("flags : sse4_1 avx2", "avx2"),
        ("Features : fp asimd asimddp", "asimd_dotprod"),
    ],
)
def test_the_instructions_of_a_processor_are_told_by_its_flags(flags: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : any\n{flags}\n")
    assert name_instructions(tmp_path / "cpuinfo") == name
    assert name_instructions(tmp_path / "nowhere")
