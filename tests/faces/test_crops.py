from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from faces.test_folder import read

from trt_facefusion.errors import FacesError
from trt_facefusion.faces import crops as crops_module


@pytest.fixture
def photos(sample_faces: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(sample_faces.glob("*.jpg"))[:5]:
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("aligned", [False, True])
def test_crops_cut_again_are_the_crops_that_were_cut_first(
    photos: Path, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = np.asarray(read(photos, aligned=aligned).crops)
    monkeypatch.setattr(crops_module, "CACHE_BYTES", 2 * 64 * 64 * 3)
    faces = read(photos, aligned=aligned)
    assert len(faces.crops._cached) == 2
    assert np.array_equal(faces.crops, kept)
    assert len(faces.crops._cached) == 2, "memory does not grow with what is asked for"


def test_crops_are_read_like_an_array(photos: Path) -> None:
    faces = read(photos)
    whole = np.asarray(faces.crops)
    assert whole.shape == faces.crops.shape == (5, 64, 64, 3)
    for key in (2, -1, slice(1, 4), [3, 0], np.array([[1, 2], [0, 0]]), whole[:, 0, 0, 0] > 90, np.int64(3)):
        assert np.array_equal(faces.crops[key], whole[key])
    assert faces.crops[[]].shape == (0, 64, 64, 3)
    assert np.array_equal(faces.crops[:, :, ::-1], whole[:, :, ::-1])
    assert np.array_equal(np.stack(list(faces.crops)), whole)
    faces.crops[0][:] = 0
    assert np.array_equal(faces.crops[0], whole[0]), "what is handed out is the caller's own"
    with pytest.raises(IndexError):
        faces.crops[5]


def test_the_same_faces_are_cut_for_another_template(photos: Path) -> None:
    other = read(photos, template="ffhq_512", size=96)
    assert np.array_equal(read(photos).subset([4, 1]).cut_crops("ffhq_512", 96), other.subset([4, 1]).crops)
    aligned = read(photos, aligned=True)
    assert np.array_equal(aligned.cut_crops("arcface_128", 96), read(photos, aligned=True, size=96).crops)
    assert aligned.cut_crops("ffhq_512", 96).shape == (5, 96, 96, 3)


def test_a_photo_that_was_changed_since_is_told_by_name(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops_module, "CACHE_BYTES", 0)
    faces = read(photos)
    changed = photos / faces.files[1]
    PIL.Image.open(changed).rotate(3).save(changed)
    with pytest.raises(FacesError, match=f"{changed.name} was changed"):
        faces.crops[:]
    changed.unlink()
    with pytest.raises(FacesError, match=f"{changed.name}: No such file"):
        faces.crops[:]
    assert faces.crops[0].any()
