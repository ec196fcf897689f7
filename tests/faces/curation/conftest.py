"""Surveys of the project's own faces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import sets

from trt_facefusion.faces.curation.survey import Survey, survey_folder
from trt_facefusion.faces.embedder import DlibEmbedder


@pytest.fixture(scope="session")
def dlib_embedder() -> DlibEmbedder:
    return DlibEmbedder()


@pytest.fixture(scope="session")
def surveyed(dlib_embedder: DlibEmbedder) -> sets.Surveyor:
    return lambda folder: survey_folder(folder, embedder=dlib_embedder)


@pytest.fixture(scope="session")
def some_faces(sample_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 of the sample faces."""
    return sets.copies(sets.photos(sample_faces, 24), tmp_path_factory.mktemp("some") / "faces")


@pytest.fixture(scope="session")
def some(surveyed: sets.Surveyor, some_faces: Path) -> Survey:
    return surveyed(some_faces)
