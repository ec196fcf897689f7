"""A plan that the builder half made, run by real pycuda on the runtime half."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import onnx
import pytest

from trt_facefusion.engine.backends.base import BuildRequest, WeakTyping
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.backends.uploader import PycudaUploader
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from twin.builder import VERSION_10, make_twin, read_plan
from twin.nets import SHAPES, Case, batches
from twin.uploader import A10G

runtime = pytest.importorskip("twin.runtime", reason="the runtime half is not there")
pycuda_runner = pytest.importorskip("trt_facefusion.engine.runtime.pycuda")


def test_build_calibrate_and_run_through_device_memory(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue("emulated_cuda")

    def read(address: int, size: int) -> bytes:
        return ctypes.string_at(runtime._backing(address, size), size)

    module, twin = make_twin(VERSION_10, read_memory=read)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    case = Case()
    weak = WeakTyping(case.model, {n.name: n.precision for n in case.plan.nodes}, batches=batches())
    engine = TensorRt(lambda: A10G, PycudaUploader).build(BuildRequest(case.typed(), SHAPES, "sm86", weak=weak))
    assert twin.batches_seen == 3
    header, model = read_plan(engine.data)
    assert header["precisions"]["a"] == "int8"
    feeds = batches(1)[0]
    loaded = runtime.Runtime(runtime.Logger()).deserialize_cuda_engine(engine.data)
    with pycuda_runner.PycudaRunner(loaded) as runner:
        found = np.array(runner.infer(feeds)["picture"])
    del loaded
    with OnnxRuntimeRunner(onnx.load_model_from_string(model)) as runner:
        np.testing.assert_allclose(found, runner.infer(feeds)["picture"], atol=1e-5)
