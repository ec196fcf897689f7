from __future__ import annotations

import os
import signal
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typed_nets import Net, half_net, two_convolutions

from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.callbacks import PhaseTree
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.backends.tensorrt_rtx import TARGETS, TensorRtRtx
from trt_facefusion.errors import BackendUnavailableError, BuildError

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'trt-facefusion[rtx]'")
SHAPES = {"x": ((1, 3, 16, 16), (1, 3, 16, 16), (4, 3, 16, 16))}
PLANNED = {"first": "Conv", "second": "Conv"}


def build(model: bytes, **options: object) -> object:
    return TensorRtRtx().build(BuildRequest(model, options.pop("shapes", {}), "sm86", **options))


def refused(model: bytes, **options: object) -> BuildError:
    with pytest.raises(BuildError) as error:
        build(model, **options)
    assert error.value.remedy
    assert "cudaError" not in error.value.message
    return error.value


@pytest.mark.parametrize("batch", [1, "N"])
def test_planned_convolutions_become_int8_kernels(batch: int | str, capfd: pytest.CaptureFixture[str]) -> None:
    engine = build(two_convolutions(batch), shapes=SHAPES if batch == "N" else {})
    assert engine.kernels_known
    assert find_int8_coverage(PLANNED, engine.kernels, TensorRtRtx.capabilities.math_types).missing == ()
    assert engine.engine_bytes == len(engine.data) > engine.weights_bytes > 0
    assert engine.activations_bytes > 0
    assert engine.log_tail
    assert capfd.readouterr() == ("", "")  # the console belongs to the command line


def test_the_same_model_gives_the_same_bytes() -> None:
    assert build(two_convolutions()).data == build(two_convolutions()).data


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_known_to_the_library_and_builds(target: str) -> None:
    assert hasattr(trt.ComputeCapability, target.upper())
    engine = TensorRtRtx().build(BuildRequest(two_convolutions(), {}, target))
    assert engine.pins == Pins.ahead_of_time(target) and engine.pins.driver is engine.pins.device is None
    assert find_int8_coverage(PLANNED, engine.kernels, TensorRtRtx.capabilities.math_types).real == 2


def test_silent_fall_backs_are_found() -> None:
    def body(net: Net, x: str) -> str:
        wrong_axis = net.conv(x, "wrong_axis", (16, 16, 3, 3), axis=1)
        weights_only = net.op("Conv", [wrong_axis, net.int8_weight("w", (16, 16, 1, 1))], "weights_only")
        inputs = [net.qdq(weights_only), net.int8_weight("t", (16, 16, 4, 4))]
        return net.op("ConvTranspose", inputs, "transposed", strides=[2, 2])

    engine = build(half_net(body, [1, 16, 8, 8]))
    coverage = find_int8_coverage(
        {"wrong_axis": "Conv", "weights_only": "Conv", "transposed": "ConvTranspose"},
        engine.kernels,
        TensorRtRtx.capabilities.math_types,
    )
    assert coverage.missing == ("wrong_axis", "weights_only", "transposed")
    assert [detail.type for detail in coverage.details] == ["correlation", "correlation", "deconv"]


@pytest.mark.parametrize("batch", [1, "N"])
def test_linear_layers_become_int8_kernels_and_shrink(batch: int | str) -> None:
    def body(net: Net, x: str) -> str:
        return net.op("Gemm", [net.qdq(x), net.int8_weight("w", (384, 256))], "linear", transB=1)

    shapes = {"x": ((1, 256), (1, 256), (4, 256))} if batch == "N" else {}
    engine = build(half_net(body, [batch, 256]), shapes=shapes)
    assert find_int8_coverage({"linear": "Gemm"}, engine.kernels, TensorRtRtx.capabilities.math_types).real == 1
    assert engine.weights_bytes < 1.1 * 256 * 384  # FP16 would take twice that


def test_an_unknown_operator_is_named() -> None:
    model = onnx.load_model_from_string(two_convolutions())
    model.graph.node.insert(1, helper.make_node("Det", ["x"], ["d"], name="strange"))
    error = refused(model.SerializeToString())
    assert "'strange'" in error.message
    assert "does not support the operator Det" in error.message


def test_a_refused_node_is_named_with_its_reason() -> None:
    model = onnx.load_model_from_string(two_convolutions())
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "cast_in:out_zero")
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))
    error = refused(model.SerializeToString())
    assert "cast_in:out_QuantizeLinear" in error.message
    assert "zero point" in error.message
    assert "FP16 in the plan" in error.remedy


def test_a_float_node_that_is_refused_is_not_sent_to_fp16() -> None:
    model = onnx.load_model_from_string(two_convolutions())
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "scales"))
    inputs = ["x", "", "scales"]
    model.graph.node.insert(0, helper.make_node("Resize", inputs, ["r"], "soft", mode="linear", antialias=1))
    error = refused(model.SerializeToString())
    assert "'soft'" in error.message
    assert "FP16" not in error.remedy and "--backend onnxruntime" in error.remedy


@pytest.mark.parametrize("cut", [0, 100, -40])
def test_damaged_models_are_refused(cut: int) -> None:
    assert "ONNX" in refused(two_convolutions()[:cut]).message


def test_weights_outside_the_file_are_refused() -> None:
    model = onnx.load_model_from_string(two_convolutions())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    refused(model.SerializeToString())


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, "no range"),
        ({"y": ((1,), (1,), (1,))}, "does not have"),
        ({"x": ((1, 3, 16, 16), (1, 3, 16, 16), (4, 3, 8, 8))}, "do not fit"),
        ({"x": ((2, 3, 16, 16), (1, 3, 16, 16), (4, 3, 16, 16))}, "do not fit"),
        ({"x": ((1, 3), (1, 3), (1, 3))}, "do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, object], said: str) -> None:
    assert said in refused(two_convolutions("N"), shapes=shapes).message


def test_too_small_a_workspace_is_refused_clearly() -> None:
    assert "could not build" in refused(two_convolutions(), workspace_bytes=1).message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_build_wherever_it_strikes(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    class StoppedError(Exception):
        pass

    def handler(signum: int, frame: object) -> None:
        raise StoppedError

    previous = signal.signal(number, handler)
    try:
        for delay_s in (0.0, 0.01, 0.05):
            timer = threading.Timer(delay_s, os.kill, (os.getpid(), number))
            with pytest.raises(StoppedError):
                timer.start()
                while True:
                    build(two_convolutions())
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, previous)
    assert capfd.readouterr() == ("", "")
    assert build(two_convolutions()).kernels_known  # the library still works


def test_an_exception_of_the_progress_callback_comes_back() -> None:
    def fail(stage: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TensorRtRtx().build(BuildRequest(two_convolutions(), {}, "sm86"), fail)


def test_progress_never_falls() -> None:
    seen: list[int] = []
    TensorRtRtx().build(BuildRequest(two_convolutions(), {}, "sm86"), lambda stage, done, total: seen.append(done))
    assert seen == sorted(seen)
    assert 0 < seen[-1] <= 100


def test_nested_phases_add_up() -> None:
    tree = PhaseTree()
    tree.start("outer", 2)
    tree.start("inner", 4)
    assert [tree.step("inner", step) for step in range(4)] == [12, 25, 37, 50]
    tree.finish("inner")
    assert [tree.step("outer", step) for step in range(2)] == [50, 100]


@pytest.mark.parametrize("target", ["sm90", "sm75", "cpu", "a10g", ""])
def test_other_targets_are_refused_with_the_known_ones(target: str) -> None:
    with pytest.raises(BackendUnavailableError) as error:
        TensorRtRtx().require(target)
    assert "sm86" in error.value.remedy
