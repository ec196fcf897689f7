"""On photos of real faces: what TensorRT's paths compute is what onnxruntime was verified with."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from twin.builder import VERSION_10, VERSION_11, make_twin, read_plan
from twin.uploader import A10G, HostUploader

from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.tuning.channels import read_affines
from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.model.export import ReferenceSource
from trt_facefusion.model.presets import get_preset
from trt_facefusion.quantization.calibration import CalibrationTable, assign_ranges
from trt_facefusion.quantization.calibration.cache import load_description
from trt_facefusion.quantization.correction.channel_affine import name_equalised
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import read_plan as read_yaml
from trt_facefusion.types import Precision

pytestmark = pytest.mark.slow
FACES = int(os.environ.get("TRT_FF_EVAL_FACES", "12"))
"""Faces of the evaluation folder that are judged; 0 takes all."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("version", "rule", "recalibrate"),
    [(VERSION_10, "percentile:99.99", False), (VERSION_10, "entropy", True), (VERSION_11, "percentile:99.99", False)],
)
def test_int8_through_tensorrt_gives_the_figures_of_onnxruntime(
    version: str, rule: str, recalibrate: bool, shared_faces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, twin = make_twin(version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(registry, "BACKENDS", (TensorRt(lambda: A10G, HostUploader), *registry.BACKENDS[1:]))
    settings = BuildSettings(
        source=ReferenceSource(),
        preset=get_preset("reference"),
        precisions=(Precision.INT8,),
        calib=shared_faces / "calib",
        eval=shared_faces / "eval",
        planner="rules",
        rule=rule,
        recalibrate=recalibrate,
        max_calib=32,
        max_eval=FACES,
        output=tmp_path / "engines",
        cache=tmp_path / "cache",
    )
    result = build(settings).engines[0]
    assert result.as_asked
    assert result.manifest.backend == "tensorrt"
    assert bool(twin.batches_seen) == recalibrate
    inputs = read_inputs(open_job(settings))
    assert inputs.proof.reference is not None
    reference = inputs.proof.reference.clip(0, 1)

    def drop(model: onnx.ModelProto) -> float:
        with OnnxRuntimeRunner(model, stand_in=True) as runner:
            pictures = inputs.network.make_renderer(inputs.faces.verification)(runner).clip(0, 1)
        return float(1 - measure_ssim(reference, pictures).mean())

    _, engine = read_plan((result.folder / "engine.engine").read_bytes())
    typed = drop(onnx.load(result.folder / "typed.onnx"))
    through_tensorrt = drop(onnx.load_model_from_string(engine))
    (cache,) = (path for path in (tmp_path / "cache").glob("*.cache") if not path.stem.endswith("-tensorrt"))
    foreign = CalibrationTable(dict(CalibrationTable.read(cache)), "TRT-8601-EntropyCalibration2")
    plan = read_yaml(result.folder / "plan.yaml", inputs.view, inputs.view.digest, "reference")
    calibration = load_description(cache)
    assert calibration is not None
    affines = read_affines(calibration)
    divided = {name: foreign[name] for name in map(name_equalised, affines)}
    ranges = {**assign_ranges(foreign, inputs.view).amax, **divided}
    converted = drop(lower(inputs.view, plan, ranges, affines=affines))
    on_cpu = dataclasses.replace(
        settings, backend="onnxruntime", target="cpu", output=tmp_path / "cpu", recalibrate=False
    )
    integers = build(on_cpu).engines[0].manifest.accuracy["ssim_drop"]
    own = " (own calibration)" if recalibrate else ""
    figures = f"typed {typed:.6f}, TensorRT {version}{own} {through_tensorrt:.6f}, converted {converted:.6f}"
    print(f"SSIM drop on {len(reference)} faces: {figures}, onnxruntime's engine {integers:.6f}")  # noqa: T201
    np.testing.assert_allclose([through_tensorrt, converted, integers], typed, atol=1e-3)
    assert result.manifest.accuracy["ssim_drop"] == pytest.approx(typed, abs=1e-3)
