"""`trt-ff build --backend tensorrt` end to end on the twins of TensorRT 10 and 11."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from twin.builder import VERSION_10, VERSION_11, Twin, make_twin, read_plan
from twin.uploader import A10G, HostUploader

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings, compute_engine_key
from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.base import BuildOptions
from trt_facefusion.engine.backends.pins import Pins, name_platform
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.quantization.calibration import CalibrationTable
from trt_facefusion.types import Precision


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.generator(), tmp_path_factory.mktemp("m") / "tiny.onnx")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("f") / "faces", range(40))


@pytest.fixture(autouse=True)
def quick_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)


def settings(model: Path, faces: Path, root: Path, **changes: Any) -> BuildSettings:
    return BuildSettings(
        source=OnnxSource(model),
        preset=Preset.from_inputs([parse_input("image=image:32:0:1")]),
        calib=faces,
        aligned=True,
        rule="entropy",
        output=root / "engines",
        cache=root / "cache",
        **{"precisions": (Precision.INT8,), **changes},
    )


def install(monkeypatch: pytest.MonkeyPatch, version: str, **options: Any) -> Twin:
    module, twin = make_twin(version, **options)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(registry, "BACKENDS", (TensorRt(lambda: A10G, HostUploader), *registry.BACKENDS[1:]))
    return twin


def picture(model: bytes) -> np.ndarray:
    feeds = {"image": np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)}
    with OnnxRuntimeRunner(onnx.load_model_from_string(model), stand_in=True) as runner:
        (output,) = runner.infer(feeds).values()
    return output


@pytest.mark.parametrize("version", [VERSION_10, VERSION_11])
def test_the_engine_computes_what_was_verified(
    version: str, model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, version)
    result = build(settings(model, faces, tmp_path)).engines[0]
    manifest = result.manifest
    assert result.as_asked
    assert (manifest.backend, manifest.backend_version, manifest.target) == ("tensorrt", version, "sm86")
    assert manifest.int8_kernels.real == manifest.int8_kernels.planned > 0
    assert manifest.pins == Pins((8, 6), "NVIDIA A10G", 13000, name_platform())
    assert manifest.rebuild_command().startswith(f"trt-ff build --onnx {model} --input image=image:32:0:1 --calib")
    header, onnx_model = read_plan((result.folder / "engine.engine").read_bytes())
    assert header["version"] == version
    typed = (result.folder / "typed.onnx").read_bytes()
    np.testing.assert_allclose(picture(onnx_model), picture(typed), atol=1e-4)
    assert list((tmp_path / "cache").glob("nvidia-a10g-sm86-tensorrt-*.timing"))


def test_recalibrate_compares_tensorrts_table_with_ours(
    model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    twin = install(monkeypatch, VERSION_10)
    notes: list[str] = []
    manifest = build(settings(model, faces, tmp_path, recalibrate=True), note=notes.append).engines[0].manifest
    assert twin.batches_seen > 0
    (note,) = [note for note in notes if "TensorRT calibrated" in note]
    ours, theirs = (CalibrationTable.read(Path(path)) for path in note.split()[-2:])
    recorded = manifest.inputs.settings["recalibration"]
    assert recorded["table"] == note.split()[-1]
    assert recorded["amax"]
    for name, (first, second) in recorded["amax"].items():
        assert (first, second) == pytest.approx((ours[name], theirs[name]))


def test_recalibrate_is_another_engine_for_tensorrt_10_only(model: Path, faces: Path, tmp_path: Path) -> None:
    def key(backend: str, **changes: Any) -> str:
        return compute_engine_key(settings(model, faces, tmp_path, **changes), {"backend": backend}, Precision.INT8)

    assert key("tensorrt 10.16", recalibrate=True) != key("tensorrt 10.16")
    assert key("tensorrt 11.4", recalibrate=True) == key("tensorrt 11.4")
    assert key("tensorrt 11.4", options=BuildOptions(version_compatible=True)) != key("tensorrt 11.4")
    assert key("tensorrt 11.4", workspace_bytes=1) != key("tensorrt 11.4")


def test_the_builders_options_are_pinned(
    model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, VERSION_11)
    options = BuildOptions(hardware_compatibility="ampere_plus", version_compatible=True)
    manifest = build(settings(model, faces, tmp_path, options=options)).engines[0].manifest
    assert manifest.pins.hardware_compatibility == "ampere_plus" and manifest.pins.version_compatible
    assert "--hardware-compatibility ampere_plus --version-compatible" in manifest.rebuild_command()


def test_layers_that_lost_their_precision_are_in_the_manifest(
    model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = next(node for node in reversed(onnx.load(model).graph.node) if node.name)
    install(monkeypatch, VERSION_10, disobeys=frozenset({head.name}))
    manifest = build(settings(model, faces, tmp_path)).engines[0].manifest
    assert any("did not keep their precision" in warning and head.name in warning for warning in manifest.warnings)


def test_a_builder_that_refuses_int8_leads_to_fp16_with_its_own_words(
    model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, _ = make_twin(VERSION_10)
    real = module.Builder.build_serialized_network

    def refusing(self: Any, network: Any, config: Any) -> Any:
        if "INT8" in config._flags:
            self._logger.log(module.ILogger.Severity.ERROR, "Could not find any implementation for node head")
            return None
        return real(self, network, config)

    module.Builder.build_serialized_network = refusing
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(registry, "BACKENDS", (TensorRt(lambda: A10G, HostUploader), *registry.BACKENDS[1:]))
    result = build(settings(model, faces, tmp_path)).engines[0]
    assert result.manifest.precision == "fp16"
    assert "Could not find any implementation" in result.fallback[0].reason
    assert "Could not find any implementation" in (result.folder / "build-int8.log").read_text()
    again = build(settings(model, faces, tmp_path, precisions=(Precision.FP16, Precision.INT8))).engines
    assert [engine.up_to_date for engine in again] == [True, True]
    assert (again[1].folder / "build-int8.log").exists()
