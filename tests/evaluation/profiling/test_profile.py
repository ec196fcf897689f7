"""`profile` on ONNX Runtime, and on the emulated driver with the twin of TensorRT."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import tiny
from cuda_emulator.driver import EmulatedDriver
from tiny import Settings
from twin import runtime
from twin.builder import VERSION_10, VERSION_11, make_twin
from twin.uploader import A10G, HostUploader

from trt_facefusion.build.run import build
from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.timing.factors import load_factors, name_file
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.errors import BackendUnavailableError, BadInputError
from trt_facefusion.evaluation.profiling.machine import read_versions
from trt_facefusion.evaluation.profiling.measure import Counts
from trt_facefusion.evaluation.profiling.run import ProfileSettings, profile
from trt_facefusion.types import BatchRange, Precision

FEW = Counts(warmups=2, rounds=6, sweep=4)


def settings_of(engine: Path, **changes: Any) -> ProfileSettings:
    return replace(ProfileSettings(engine, counts=FEW, threads=1), **changes)


@pytest.fixture(scope="module")
def engine(module_settings: Settings) -> Path:
    return build(module_settings(Precision.INT8, batch=BatchRange(1, 2, 3))).engines[0].folder


def test_an_onnxruntime_engine(engine: Path) -> None:
    found = profile(settings_of(engine)).one
    assert (found.precision, found.batch, found.stand_in, found.split) == ("int8", 2, False, None)
    assert len(found.times_ms) == FEW.rounds
    assert [point.at for point in found.batches] == [1, 2, 3]
    assert [point.at for point in found.flights] == [1, 2, 4]
    assert found.memory_bytes is not None and found.memory_bytes > 0
    assert found.host_overhead_us > 0
    assert "preset" in found.inputs
    layers = {node: layer for layer in found.layers for node in layer.nodes}
    assert layers["block0.conv1"].precision == "int8"
    assert layers["block0.conv1"].dtypes.startswith(("uint8 x int8", "uint8 x uint8"))  # the latter without VNNI
    assert layers["block0.norm"].precision != "int8"
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)


def test_two_engines_in_turn(engine: Path, settings: Settings) -> None:
    other = build(settings(Precision.FP32, batch=BatchRange(1, 2, 3))).engines[0].folder
    found = profile(settings_of(engine, against=other))
    assert found.other is not None and found.other.precision == "fp32"
    assert found.comparison is not None and found.comparison.rounds == FEW.rounds
    assert found.comparison.ratio == pytest.approx(found.other.latency.p50 / found.one.latency.p50)
    described = found.as_dict({})
    keys = {"latency_ms", "throughput_per_s", "host_overhead_us", "memory_bytes", "layers"}
    assert keys <= set(described) and keys <= set(described["against"])
    assert set(described["latency_ms"]) == {"p50", "p90", "p95", "p99", "max"}


def test_a_plain_onnx_file_has_no_plan(model: Path) -> None:
    found = profile(settings_of(model, batches=(1, 5))).one
    assert (found.precision, found.batch) == (None, 1)
    assert "0 to 1" in found.inputs
    assert {layer.precision for layer in found.layers} == {None}
    assert any(layer.dtypes == "fp32 x fp32 -> fp32" for layer in found.layers)
    assert [point.at for point in found.batches] == [1, 5]


def test_real_faces_are_fed_through_the_contract(engine: Path, faces: Path) -> None:
    found = profile(settings_of(engine, faces=faces, aligned=True)).one
    assert found.inputs.endswith(f"faces of {faces}")


def test_what_cannot_be_measured_is_refused(engine: Path, model: Path, faces: Path) -> None:
    with pytest.raises(BadInputError, match="batches of 1 to 3, not of 4"):
        profile(settings_of(engine, batch=4))
    with pytest.raises(BadInputError, match="batches of 1 to 3, not of 9"):
        profile(settings_of(engine, batches=(1, 9)))
    with pytest.raises(BadInputError, match="nothing says how"):
        profile(settings_of(model, faces=faces))
    with pytest.raises(BadInputError, match="trtexec"):
        profile(settings_of(engine, trtexec=True))


# -- on a GPU, emulated


@pytest.fixture(scope="module", params=[VERSION_10, VERSION_11])
def twins_engine(request: pytest.FixtureRequest, module_settings: Settings) -> tuple[Path, ModuleType]:
    """An engine that the twin of one version built, and the twin."""
    module, _ = make_twin(request.param)
    wanted = module_settings(Precision.INT8, backend="tensorrt", target="sm86", batch=BatchRange(1, 2, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", module)
        patch.setattr(registry, "BACKENDS", (TensorRt(lambda: A10G, HostUploader), *registry.BACKENDS[1:]))
        return build(wanted).engines[0].folder, module


@pytest.fixture
def gpu_engine(
    twins_engine: tuple[Path, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Callable[[], None]]:
    """An engine that the twin built, and what makes the twin's runtime the installed one."""
    folder, module = twins_engine
    monkeypatch.setitem(sys.modules, "tensorrt", module)

    def install() -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", runtime)
        monkeypatch.setattr(runtime.Runtime, "version", module.__version__)
        monkeypatch.setattr(runtime, "__version__", module.__version__)

    return folder, install


def test_an_engine_on_a_gpu(gpu_engine: tuple[Path, Callable[[], None]], emulated_cuda: EmulatedDriver) -> None:
    folder, install = gpu_engine
    install()
    emulated_cuda.configure(latency_us=300)
    found = profile(settings_of(folder)).one
    assert found.batch == 2 and found.split is not None
    assert found.split.upload_ms >= 0.3 and found.split.download_ms >= 0.3 and found.split.compute_ms > 0
    assert found.host_overhead_us > 0
    assert [point.at for point in found.batches] == [1, 2, 4]
    assert [point.at for point in found.flights] == [1, 2, 4]
    assert found.memory_bytes is not None
    assert found.memory["device_difference_bytes"] == found.memory["runner_bytes"]
    layers = {node: layer for layer in found.layers for node in layer.nodes}
    assert layers["block0.conv1"].precision == "int8"
    assert "int8" in layers["block0.conv1"].dtypes
    assert len(found.layers) >= 10
    assert "emulated" in found.device


def test_the_model_of_time_is_fitted_to_the_layers_of_this_gpu(
    gpu_engine: tuple[Path, Callable[[], None]], emulated_cuda: EmulatedDriver, tmp_path: Path
) -> None:
    folder, install = gpu_engine
    install()
    with pytest.raises(BadInputError, match="published") as refused:  # the emulated GPU is in no table
        profile(settings_of(folder, fit=True, cache=tmp_path))
    assert "a10g" in refused.value.remedy
    profiled = profile(settings_of(folder, fit=True, gpu="a10g", cache=tmp_path))
    fitted = profiled.fitted
    assert fitted is not None and fitted.layers >= 10
    assert fitted.deviation_after <= fitted.deviation_before
    assert profiled.fitted_file == name_file(tmp_path, get_gpu("a10g"))
    assert load_factors(tmp_path, get_gpu("a10g")) == fitted
    document = profiled.as_dict({})["fitted"]
    assert document["gpu"] == "a10g" and document["factors"]["memory"] == fitted.factors.memory


def test_nothing_is_fitted_to_what_runs_on_a_processor(engine: Path, model: Path, tmp_path: Path) -> None:
    for path in (engine, model):
        with pytest.raises(BadInputError, match="nothing can be fitted"):
            profile(settings_of(path, fit=True, cache=tmp_path))


def test_two_engines_on_a_gpu_and_trtexec_beside(
    gpu_engine: tuple[Path, Callable[[], None]], emulated_cuda: EmulatedDriver, tmp_path: Path
) -> None:
    folder, install = gpu_engine
    install()
    program = tmp_path / "trtexec"
    (tmp_path / "times.json").write_text('[{"h2dMs": 0.1, "computeMs": 0.5, "d2hMs": 0.1, "latencyMs": 0.7}]')
    program.write_text(
        f'#!/bin/sh\necho "$@" > {program}.arguments\n'
        f'for word in "$@"; do case "$word" in --exportTimes=*) cp {tmp_path}/times.json "${{word#*=}}";; esac; done\n'
    )
    program.chmod(0o755)
    found = profile(settings_of(folder, against=folder, trtexec=True, trtexec_path=program))
    assert found.comparison is not None and found.trtexec is not None
    assert found.one.split is not None and found.trtexec_ratio is not None
    assert found.trtexec_ratio["compute"] == pytest.approx(found.one.split.compute_ms / 0.5)
    words = (tmp_path / "trtexec.arguments").read_text().split()
    assert "--shapes=image:2x3x32x32" in words
    assert found.as_dict({})["trtexec"]["ratio"] == found.trtexec_ratio


def test_an_engine_without_a_gpu_names_the_way_out(
    gpu_engine: tuple[Path, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = gpu_engine
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendUnavailableError) as error:
        profile(settings_of(folder))
    assert "--stand-in" in error.value.remedy
    told: list[str] = []
    found = profile(settings_of(folder, stand_in=True), note=told.append).one
    assert found.stand_in
    assert any("NOT the engine" in text for text in told)
    with pytest.raises(BadInputError, match="trtexec"):
        profile(settings_of(folder, stand_in=True, trtexec=True))


def test_a_model_of_a_fixed_batch_is_measured_at_that(tmp_path: Path) -> None:
    path = tiny.save(tiny.generator(batch=2), tmp_path / "fixed.onnx")
    found = profile(settings_of(path, flights=(1,))).one
    assert (found.batch, [point.at for point in found.batches]) == (2, [2])
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert read_versions()["onnxruntime"]
