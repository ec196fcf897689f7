from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.curation.pose import Pose
from trt_facefusion.faces.curation.select import FLOOR_SHARPNESS, compute_features, select
from trt_facefusion.faces.curation.survey import Survey

SAME_PERSON = 0.6


def chosen(survey: Survey, count: int) -> list[str]:
    """Digests of the selection, in the order of choice."""
    return [survey.photos[index].digest for index in select(survey, count, same_person=SAME_PERSON).indices]


def test_names_and_order_of_the_photos_do_not_matter(
    some: Survey, some_faces: Path, surveyed: sets.Surveyor, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted(some_faces.iterdir(), reverse=True)):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / f"{number % 3}" / f"{number:03}.jpg")
    assert chosen(surveyed(tmp_path), 10) == chosen(some, 10)


@pytest.mark.parametrize("count", [2, 7, 24])
def test_the_selection_is_reproducible_and_has_no_photo_twice(some: Survey, count: int) -> None:
    first = chosen(some, count)
    assert first == chosen(some, count)
    assert len(set(first)) == len(first) == min(count, len(some))


def test_more_than_there_are_gives_all_that_are_fit(some: Survey) -> None:
    found = select(some, 500, same_person=SAME_PERSON)
    assert len(found.chosen) + len(found.dropped) == len(some)


def test_distances_fall_where_nothing_is_lacking(some: Survey) -> None:
    same = tuple(replace(photo, pose=None, covered=()) for photo in some.photos)
    found = select(replace(some, photos=same), 12, same_person=SAME_PERSON)
    free = [c.distance for c in found.chosen[1:] if c.reason == "farthest from all chosen before"]
    assert free == sorted(free, reverse=True)


def test_a_selection_lies_closer_to_every_photo_than_a_random_one(some: Survey) -> None:
    points = compute_features(some, SAME_PERSON)

    def radius(indices: list[int]) -> float:
        return float(np.linalg.norm(points[:, None] - points[indices][None], axis=-1).min(1).max())

    rng = np.random.default_rng(0)
    random = [radius(rng.choice(len(some), 8, replace=False).tolist()) for _ in range(20)]
    assert radius(select(some, 8, same_person=SAME_PERSON).indices) < np.median(random)


def test_blurred_photos_and_near_copies_go_with_a_reason(some: Survey) -> None:
    blurred = replace(some.photos[3], sharpness=FLOOR_SHARPNESS - 0.1)
    photos = (*some.photos[:3], blurred, *some.photos[4:])
    copies = some.copies.copy()
    copies[7] = copies[8]
    worse = min(7, 8, key=lambda index: photos[index].sharpness)
    why = dict(select(replace(some, photos=photos, copies=copies), 99, same_person=SAME_PERSON).dropped)
    assert why[3].startswith("blurred")
    assert why[worse] == f"near copy of {photos[15 - worse].file}"
    assert set(why) == {3, worse}


def test_nothing_fit_is_an_error_with_a_remedy(some: Survey) -> None:
    blurred = replace(some, photos=tuple(replace(photo, sharpness=0.1) for photo in some.photos))
    with pytest.raises(FacesError, match="none of the 24 faces") as error:
        select(blurred, 5, same_person=SAME_PERSON)
    assert "audit" in error.value.remedy


@given(st.sets(st.integers(0, 23), min_size=1, max_size=3))
def test_rare_profiles_are_always_chosen(some: Survey, profiles: set[int]) -> None:
    def posed(index: int) -> Pose:
        return Pose(60.0, 0.0, 0.0) if index in profiles else Pose(3.0, 0.0, 0.0)

    photos = tuple(replace(photo, pose=posed(index)) for index, photo in enumerate(some.photos))
    found = select(replace(some, photos=photos), 12, same_person=SAME_PERSON)
    assert found.indices and set(found.indices) & profiles


def test_activations_change_what_is_chosen(some: Survey) -> None:
    strong = np.zeros((len(some), 6))
    strong[5] = 9.0
    found = select(some, 3, same_person=SAME_PERSON, activations=strong)
    assert 5 in found.indices


def test_near_copies_take_no_more_than_one_place(sample_faces: Path, surveyed: sets.Surveyor, tmp_path: Path) -> None:
    first, *others = sets.photos(sample_faces, 4)
    folder = sets.near_identical(first, sets.copies(others, tmp_path), 6)
    found = select(surveyed(folder), 4, same_person=SAME_PERSON)
    assert len(found.chosen) == 4 and len(found.dropped) == 5
