"""Engines that all tests share."""

from __future__ import annotations

from pathlib import Path

import packaged_engines as engines
import pytest
import tiny

from trt_facefusion.inference import embedders as embedders_module


@pytest.fixture(scope="session")
def onnx_engine(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    """An engine of onnxruntime."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        return engines.build_engine(tmp_path_factory.mktemp("onnx"), faces)


@pytest.fixture(scope="session")
def a10g_engine(onnx_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for an A10G."""
    return engines.pretend_tensorrt(onnx_engine, tmp_path_factory.mktemp("a10g"), "sm86")


@pytest.fixture(scope="session")
def l4_engine(onnx_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for an L4."""
    return engines.pretend_tensorrt(onnx_engine, tmp_path_factory.mktemp("l4"), "sm89")
