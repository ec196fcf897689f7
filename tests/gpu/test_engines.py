"""Engines built by TensorRT on this GPU compute what their stand-in computes; calibration works."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from twin.nets import SHAPES, Case, batches

from trt_facefusion.doctor.driver import Gpu
from trt_facefusion.engine.backends.base import BuildOptions, BuildRequest, BuiltEngine, WeakTyping
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.quantization.calibration import compare_tables
from trt_facefusion.types import Array, Precision

pytestmark = pytest.mark.gpu

ROUNDING = {Precision.FP32: 1e-3, Precision.FP16: 2e-2}
"""Largest difference from FP32 that order of accumulation, and FP16, may make in pictures of -1 to 1."""


def request(case: Case, gpu: Gpu, precision: Precision, **changes: Any) -> BuildRequest:
    plan = case.plan.capped(precision)
    table = case.table if precision is Precision.INT8 else None
    weak = WeakTyping(case.model, {node.name: node.precision for node in plan.nodes}, table)
    made = BuildRequest(case.typed(plan), SHAPES, gpu.target, weak=weak)
    return replace(made, **changes)


@cache
def engine(precision: Precision) -> BuiltEngine:
    from trt_facefusion.doctor.driver import ask_driver

    return TensorRt().build(request(Case(), ask_driver().gpus[0], precision))


def on_the_gpu(data: bytes) -> list[Array]:
    with PycudaRunner(data) as runner:
        return [outputs["picture"] for outputs in runner.map(batches(4))]


def on_the_cpu(model: bytes) -> list[Array]:
    with OnnxRuntimeRunner(onnx.load_model_from_string(model), stand_in=True) as runner:
        return [runner.infer(feeds)["picture"] for feeds in batches(4)]


def difference(found: list[Array], wanted: list[Array]) -> Array:
    return np.abs(np.concatenate(found) - np.concatenate(wanted))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_float_engines_compute_what_the_network_does(gpu: Gpu, case: Case, precision: Precision) -> None:
    assert difference(on_the_gpu(engine(precision).data), on_the_cpu(case.model)).max() < ROUNDING[precision]


def test_an_int8_engine_loses_no_more_than_its_stand_in(gpu: Gpu, case: Case) -> None:
    wanted = on_the_cpu(case.model)
    stand_in = difference(on_the_cpu(case.typed()), wanted).mean()
    found = difference(on_the_gpu(engine(Precision.INT8).data), wanted).mean()
    assert 0 < found <= 2 * stand_in + 0.01


def test_the_inspector_is_understood_and_holds_the_plan(gpu: Gpu, case: Case) -> None:
    built = engine(Precision.INT8)
    assert built.kernels_known, "the inspector's JSON was not understood"
    planned = {node.name: node.op for node in case.plan.nodes if node.precision is Precision.INT8}
    nodes = {node for kernel in built.kernels for node in kernel.nodes}
    assert set(planned) <= nodes
    assert find_int8_coverage(planned, built.kernels, TensorRt.capabilities.math_types).planned == len(planned)
    assert not any("did not keep" in note for note in built.notes), built.notes


def test_our_table_covers_the_network(gpu: Gpu, trt: Any, case: Case) -> None:
    if not trt.__version__.startswith("10."):
        pytest.skip(f"TensorRT {trt.__version__} has no calibrators")
    built = engine(Precision.INT8)
    assert built.scales is not None
    assert built.scales.missing == ()
    assert not [line for line in built.log_tail if "Missing scale" in line]


@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
def test_tensorrt_calibrates_itself(gpu: Gpu, trt: Any, case: Case, algorithm: str, tmp_path: Path) -> None:
    if not trt.__version__.startswith("10."):
        pytest.skip(f"TensorRT {trt.__version__} has no calibrators")
    asked = request(case, gpu, Precision.INT8)
    assert asked.weak is not None
    weak = replace(asked.weak, table=None, batches=batches(6), algorithm=algorithm, keep=tmp_path / "own.cache")
    built = TensorRt().build(replace(asked, weak=weak))
    assert built.calibration is not None
    found = compare_tables(case.table, built.calibration)
    assert {"image", "style"} <= {change.name for change in found.changes}
    assert all(0.01 < change.ratio < 100 for change in found.changes)
    assert (tmp_path / "own.cache").read_bytes().startswith(b"TRT-")
    assert on_the_gpu(built.data)


def test_timings_are_kept_and_options_taken(gpu: Gpu, case: Case, tmp_path: Path) -> None:
    options = BuildOptions(tmp_path, optimization_level=1, hardware_compatibility="same_compute_capability")
    asked = request(case, gpu, Precision.FP16, options=options, workspace_bytes=64 << 20)
    built = [TensorRt().build(asked) for _ in range(2)]
    assert list(tmp_path.glob("*.timing"))
    assert difference(on_the_gpu(built[1].data), on_the_cpu(case.model)).max() < ROUNDING[Precision.FP16]


def test_an_impossible_build_keeps_tensorrts_own_words(gpu: Gpu, case: Case) -> None:
    from trt_facefusion.errors import BuildError

    shapes = {name: ((3, *s[0][1:]), (2, *s[0][1:]), (1, *s[0][1:])) for name, s in SHAPES.items()}
    with pytest.raises(BuildError):
        TensorRt().build(request(case, gpu, Precision.FP32, shapes=shapes))
