"""Fixtures shared by all tests; among them a tiny model, tiny faces, and settings that build in a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from cuda_emulator import driver as emulated
from hypothesis import settings as hypothesis_settings
from tiny import Settings

from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.types import Precision

# Started in the background, a shell ignores Ctrl-C and so does all that it starts: the tests of it need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The machine may be busy: a slow example is no failure.
hypothesis_settings.register_profile("patient", deadline=None)
hypothesis_settings.load_profile("patient")

ROOT = Path(__file__).resolve().parents[1]
IMAGE = f"image=image:{tiny.SIZE}:0:1"


@pytest.fixture(scope="session")
def shared_faces() -> Path:
    """Photos of real faces (`calib/`, `eval/`, `hard/`); they are not part of the repository."""
    folder = Path(os.environ.get("TRT_FF_FACES", ROOT.parent / "shared" / "faces"))
    if not (folder / "calib").is_dir():
        pytest.skip(f"no photos at {folder}: set TRT_FF_FACES to a folder with calib/, eval/ and hard/")
    return folder


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Models that are not part of the repository (`generator/vintagify_cyclegan_A2B.onnx` and others)."""
    folder = Path(os.environ.get("TRT_FF_MODELS", ROOT.parent / "shared" / "models"))
    if not (folder / "generator").is_dir():
        pytest.skip(f"no models at {folder}: set TRT_FF_MODELS to a folder with generator/, embedder/ ...")
    return folder


@pytest.fixture(scope="session")
def sample_faces() -> Path:
    """The faces that the project itself made."""
    return ROOT / "samples" / "faces"


@pytest.fixture(scope="session")
def _emulated_driver() -> emulated.EmulatedDriver:
    try:
        return emulated.load(emulated.built())
    except emulated.CannotBuildError as error:
        reason = f"no pycuda on an emulated CUDA driver (scripts/build_pycuda.py says why): {error}"
        if os.environ.get("TRT_FF_REQUIRE_EMULATOR"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def emulated_cuda(_emulated_driver: emulated.EmulatedDriver) -> Iterator[emulated.EmulatedDriver]:
    """The emulated CUDA driver, loaded before pycuda; queued work runs only when something waits for it.

    A test that leaves a buffer, stream, event or context behind fails, and so does one that frees a buffer under queued
    work. What is left in a context that was lost on purpose (``loses_context``) is not looked for.
    """
    _emulated_driver.begin()
    before = _emulated_driver.held()
    yield _emulated_driver
    _emulated_driver.clear_faults()
    held = _emulated_driver.held()
    assert held["contexts"] == before["contexts"]
    assert held == before or _emulated_driver.loses_context
    assert _emulated_driver["early_free"] == 0


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures") / "faces", range(40))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.generator(), tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture
def settings(tmp_path: Path, faces: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Makes settings for the tiny model; what is named replaces the default."""
    monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
    return _settings_in(tmp_path, faces, model)


@pytest.fixture(scope="module")
def module_settings(tmp_path_factory: pytest.TempPathFactory, faces: Path, model: Path) -> Iterator[Settings]:
    """Like `settings`, for engines that all tests of a module share and none changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        yield _settings_in(tmp_path_factory.mktemp("shared"), faces, model)


def _settings_in(folder: Path, faces: Path, model: Path) -> Settings:
    def make(*precisions: Precision, onnx: Path = model, inputs: tuple[str, ...] = (IMAGE,), **changes: Any) -> Any:
        plain = {
            "source": OnnxSource(onnx),
            "preset": Preset.from_inputs([parse_input(text) for text in inputs]),
            "precisions": precisions or (Precision.INT8,),
            "calib": faces,
            "aligned": True,
            "backend": "onnxruntime",
            "rule": "max",
            "planner": "rules",
            "output": folder / "engines",
            "cache": folder / "cache",
        }
        return BuildSettings(**{**plain, **changes})

    return make
