"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The machine may be busy: a slow example is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).resolve().parents[1]


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
