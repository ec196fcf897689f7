"""`diff` of TensorRT engines: real pycuda on the emulated driver, the twin of TensorRT behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cuda_emulator.driver import OUT_OF_MEMORY, EmulatedDriver
from onnx import numpy_helper
from tiny import Settings
from twin import runtime as trt

from trt_facefusion.build.run import build
from trt_facefusion.engine.backends.pins import Pins, name_platform
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import BadInputError, DeviceMemoryError, StoreError
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.evaluation.comparison.sides import CPU, GPU
from trt_facefusion.types import BatchRange, Precision

PINS = Pins((8, 6), "cuemu (emulated, no GPU)", 13000, name_platform())


@pytest.fixture
def gpu(emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch) -> EmulatedDriver:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return emulated_cuda


@pytest.fixture(scope="module")
def plain(module_settings: Settings) -> Path:
    """The FP32 engine of onnxruntime, which holds the graph and the contract of the others."""
    return build(module_settings(Precision.FP32, batch=BatchRange(1, 2, 3))).engines[0].folder


def engine(plain: Path, precision: str = "int8", noise: float = 0.0, **changes: Any) -> Path:
    """An engine for the emulated GPU: the tiny generator, with noise in the weights of its head."""
    store = Store(plain.parent.parent)
    manifest = store.load(plain)
    model = onnx.load(plain / "typed.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "head.weight" and noise:
            values = numpy_helper.to_array(tensor)
            values = values + np.random.default_rng(0).normal(0, noise, values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    shapes = changes.get("shapes", manifest.shapes)
    profiles = {name: [list(shape) for shape in kept] for name, kept in shapes.items()}
    files = {name: (plain / name).read_bytes() for name in manifest.files if not name.startswith("engine.")}
    files |= {"engine.engine": trt.make_plan(model, trt.__version__, profiles), "typed.onnx": model.SerializeToString()}
    fields = {"backend": "tensorrt", "backend_version": trt.__version__, "target": "sm86", "pins": PINS}
    changed = {**manifest.__dict__, **fields, "precision": precision, "requested_precision": precision, **changes}
    return store.save(manifest.__class__(**changed), files)


def test_an_engine_on_the_gpu_gives_what_its_graph_gives(gpu: EmulatedDriver, plain: Path, faces: Path) -> None:
    folder = engine(plain, noise=0.1)
    found = diff(DiffSettings(folder, folder / "typed.onnx", faces, aligned=True, max_faces=7))
    assert (found.a["ran"], found.b["ran"], found.batch, found.faces) == (GPU, CPU, 2, 7)
    assert found.outputs[0].max_abs is not None and found.outputs[0].max_abs < 1e-6
    assert gpu["executed"] > 0


def test_two_engines_run_side_by_side_and_layers_on_their_graphs(gpu: EmulatedDriver, plain: Path, faces: Path) -> None:
    notes: list[str] = []
    a, b = engine(plain, "fp16"), engine(plain, "int8", noise=0.1)
    found = diff(DiffSettings(a, b, faces, aligned=True, max_faces=4, layers=True, raised=1), note=notes.append)
    assert (found.a["ran"], found.b["ran"]) == (GPU, GPU)
    assert found.outputs[0].max_abs is not None and found.outputs[0].max_abs > 1e-3
    assert found.layers is not None and found.layers.errors[0].node.name == "head"
    assert (found.layers.errors[0].gain or 0.0) > 0
    assert notes == ["layers are compared on the typed ONNX: a TensorRT engine shows its outputs only"]


def test_profiles_that_share_no_batch_are_told(gpu: EmulatedDriver, plain: Path, faces: Path) -> None:
    shapes = Store(plain.parent.parent).load(plain).shapes
    four = {name: ((4, *a[1:]), (4, *b[1:]), (8, *c[1:])) for name, (a, b, c) in shapes.items()}
    with pytest.raises(BadInputError, match=r"no batch size fits both.*takes 1 to 3.*takes 4 to 8"):
        diff(DiffSettings(engine(plain), engine(plain, "fp16", shapes=four), faces, aligned=True))


def test_another_gpus_engine_is_refused_unless_its_graph_is_to_stand_in(
    gpu: EmulatedDriver, plain: Path, faces: Path
) -> None:
    other = engine(plain, pins=Pins((8, 9), "NVIDIA L4", 13000, name_platform()))
    with pytest.raises(StoreError, match="NVIDIA L4"):
        diff(DiffSettings(plain, other, faces, aligned=True))
    assert diff(DiffSettings(plain, other, faces, aligned=True, max_faces=2, stand_in=True)).outputs[0].max_abs == 0


def test_a_full_gpu_is_told_and_leaves_nothing_behind(gpu: EmulatedDriver, plain: Path, faces: Path) -> None:
    folder = engine(plain)
    gpu.inject("alloc", OUT_OF_MEMORY, after=1, times=99)
    with pytest.raises(DeviceMemoryError):
        diff(DiffSettings(plain, folder, faces, aligned=True))
