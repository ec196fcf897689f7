"""A tiny model, tiny faces, and settings that build in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny import Settings

from trt_facefusion.export import OnnxSource
from trt_facefusion.pipeline import settings as settings_module
from trt_facefusion.pipeline.settings import BuildSettings
from trt_facefusion.presets import Preset, parse_input
from trt_facefusion.types import Precision

IMAGE = f"image=image:{tiny.SIZE}:0:1"


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures") / "faces", range(40))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.generator(), tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture
def settings(tmp_path: Path, faces: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Makes settings for the tiny model; what is named replaces the default."""
    monkeypatch.setattr(settings_module, "DlibEmbedder", tiny.Glance)
    return _settings_in(tmp_path, faces, model)


@pytest.fixture(scope="module")
def module_settings(tmp_path_factory: pytest.TempPathFactory, faces: Path, model: Path) -> Iterator[Settings]:
    """Like `settings`, for engines that all tests of a module share and none changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings_module, "DlibEmbedder", tiny.Glance)
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
