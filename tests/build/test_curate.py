from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from trt_facefusion.build.activations import compute_level
from trt_facefusion.build.curate import Curated, Generator, curate
from trt_facefusion.errors import BadInputError, FacesError
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.quantization.calibration import Histogram


def described(*inputs: str) -> Preset:
    return Preset.from_inputs([parse_input(text) for text in inputs])


@pytest.fixture(scope="module")
def folder(sample_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curate") / "faces"
    folder.mkdir()
    for path in sorted(sample_faces.glob("*.jpg"))[:12]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.generator(), tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Curated:
    return curate(folder, 5)


def test_the_selection_covers_with_what_it_was_asked_for(plain: Curated) -> None:
    assert len(plain.selected) == 5 and plain.generator is None
    assert [photo.file for photo in plain.selected.photos] == [
        plain.survey.photos[index].file for index in plain.selection.indices
    ]
    assert set(plain.coverage) == {"before", "after"}


def test_problems_of_the_folder_are_told_once(plain: Curated) -> None:
    kinds = [finding.kind for finding in plain.problems]
    assert kinds == ["few"]


def test_a_generator_is_asked_for_its_activations(folder: Path, model: Path, plain: Curated) -> None:
    generator = Generator(OnnxSource(model), described("image=image:32:0:1"))
    stages = set()
    found = curate(folder, 5, generator, progress=lambda stage, done, total: stages.add((stage, total)))
    assert ("activations", 12) in stages
    assert found.generator == "tiny"
    assert found.survey.faces.crops.shape == (12, 32, 32, 3)
    again = curate(folder, 5, generator)
    assert found.selection == again.selection


def test_a_description_that_does_not_fit_is_told_before_photos_are_read(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="do not fit the model"):
        curate(tmp_path / "nowhere", 5, Generator(OnnxSource(model), described("other=image:32:0:1")))


def test_one_face_is_not_enough(folder: Path, tmp_path: Path) -> None:
    shutil.copy(next(folder.iterdir()), tmp_path)
    with pytest.raises(FacesError, match="only 1 usable face"):
        curate(tmp_path, 5)


def test_levels_are_octaves_of_the_magnitude() -> None:
    values = np.random.default_rng(0).uniform(0.5, 1, 10_000).astype(np.float32)
    levels = []
    for factor in (1, 4):
        histogram = Histogram()
        histogram.add(values * factor)
        levels.append(compute_level(histogram))
    assert levels[1] - levels[0] == pytest.approx(2)
    assert levels[0] == pytest.approx(0, abs=0.01)
