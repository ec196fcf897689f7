from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import sets

from trt_facefusion.faces.curation.copies import group_people
from trt_facefusion.faces.curation.survey import Survey


def test_different_people_are_no_copies(some: Survey) -> None:
    assert len(set(some.copies.tolist())) == len(some)
    assert some.copy_of == {}


def test_copies_point_to_the_sharpest(some_faces: Path, surveyed: sets.Surveyor, tmp_path: Path) -> None:
    first, *others = sets.photos(some_faces, 3)
    sets.near_identical(first, sets.copies([first, *others], tmp_path), 4)
    found = surveyed(tmp_path)
    group = [photo for photo in found.photos if photo.file.startswith("copy_") or photo.file == first.name]
    best = max(group, key=lambda photo: photo.sharpness)
    assert found.copy_of == {photo.file: best.file for photo in group if photo is not best}
    assert len(found.pick_best_copies()) == 3


def test_the_same_file_twice_counts_as_a_duplicate(some_faces: Path, surveyed: sets.Surveyor, tmp_path: Path) -> None:
    first = sets.photos(some_faces, 1)[0]
    sets.copies([first], tmp_path / "a")
    sets.copies([first], tmp_path / "b")
    found = surveyed(tmp_path)
    assert len(found) == 1 and [skip.kind for skip in found.skipped] == ["duplicate"]


def test_people_are_counted_by_distance_to_their_mean_face() -> None:
    rng = np.random.default_rng(0)
    centres = 3 * np.eye(4, 16)
    faces = np.repeat(centres, [5, 1, 3, 2], 0) + rng.normal(0, 0.03, (11, 16))
    found = group_people(faces.astype(np.float32), 0.6)
    assert np.unique(found, return_counts=True)[1].tolist() == [5, 1, 3, 2]


def test_of_copies_in_several_sizes_the_largest_is_the_best(
    some_faces: Path, surveyed: sets.Surveyor, tmp_path: Path
) -> None:
    first, *others = sets.photos(some_faces, 3)
    sets.copies([first, *others], tmp_path)
    image = sets.load(first)
    for side in (96, 128, 160):
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        sets.save(
            np.clip(1.5 * small - 0.5 * cv2.GaussianBlur(small, (0, 0), 1), 0, 255).astype(np.uint8),
            tmp_path / f"{side}.jpg",
        )
    found = surveyed(tmp_path)
    assert found.copy_of == dict.fromkeys(["96.jpg", "128.jpg", "160.jpg"], first.name)


def test_chips_cut_again_are_those_that_were_measured(
    some_faces: Path, surveyed: sets.Surveyor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sets.copies(sets.photos(some_faces, 3), tmp_path)
    measured = np.asarray(surveyed(folder).chips)
    monkeypatch.setattr("trt_facefusion.faces.crops.CACHE_BYTES", 0)
    assert np.array_equal(surveyed(folder).chips, measured)
