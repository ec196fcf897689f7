"""What is said of sets with something wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import sets
from trt_facefusion.faces.faceset import ADVISED_FACES

from trt_facefusion.faces.curation.coverage import FaceCoverage, measure_coverage
from trt_facefusion.faces.curation.survey import Survey


def told(found: FaceCoverage) -> dict[str, str]:
    """Kind of problem -> its text; each comes with advice."""
    assert all(finding.advice for finding in (*found.problems, *found.gaps))
    return {finding.kind: finding.text for finding in found.problems}


def gaps(found: FaceCoverage) -> dict[str, str]:
    return {finding.kind: finding.text for finding in found.gaps}


def test_of_good_photos_only_their_number_is_wrong(some: Survey) -> None:
    assert told(measure_coverage(some)) == {
        "few": f"only 24 different usable photos, {ADVISED_FACES} give safer INT8 ranges"
    }
    assert told(measure_coverage(some, advised=20)) == {}


def test_near_copies_are_one_picture(sample_faces: Path, surveyed: sets.Surveyor, tmp_path: Path) -> None:
    found = surveyed(sets.near_identical(sets.photos(sample_faces, 1)[0], tmp_path, 20))
    assert len(found) == 20 and len(found.pick_best_copies()) == 1
    problems = told(measure_coverage(found))
    assert problems["copies"] == "95% of the faces are near copies of others; 20 photos show only 1 different picture"
    assert "all photos" in problems["one_person"]


def test_pictures_without_a_face_are_counted(some_faces: Path, surveyed: sets.Surveyor, tmp_path: Path) -> None:
    folder = sets.textures(sets.copies(sets.photos(some_faces, 14), tmp_path), 6)
    found = surveyed(folder)
    assert len(found) == 14
    assert told(measure_coverage(found))["no_face"] == "30% of the photos (6 of 20) are without a face"


def test_a_set_in_the_dark_is_told(some_faces: Path, surveyed: sets.Surveyor, tmp_path: Path) -> None:
    found = measure_coverage(surveyed(sets.darkened(sets.photos(some_faces, 12), tmp_path)))
    assert told(found)["all_low"] == "all faces are in low light"
    assert gaps(found)["light/even"] == "no evenly lit faces"


def test_a_set_of_one_person_is_told(sample_faces: Path, surveyed: sets.Surveyor, tmp_path: Path) -> None:
    found = surveyed(sets.one_person(sets.photos(sample_faces, 3)[2], tmp_path, 12))
    assert found.largest_person >= 0.8 * len(found) > 8
    assert "one person" in told(measure_coverage(found))["one_person"]


def test_shares_are_of_the_photos_and_gaps_name_what_is_missing(some: Survey) -> None:
    found = measure_coverage(some)
    by_axis: dict[str, float] = {}
    for row in found.rows:
        by_axis[row.axis] = by_axis.get(row.axis, 0) + row.share
    assert all(total == pytest.approx(1) for total in by_axis.values())
    assert gaps(found)["pose/profile"] == "no profile faces (beyond 45°)"
    empty = {f"{row.axis}/{row.bin}" for row in found.rows if not row.count and row.target.least}
    assert {kind for kind, text in gaps(found).items() if text.startswith("no ")} == empty


@pytest.mark.slow
def test_hard_photos_are_named_right(shared_faces: Path, surveyed: sets.Surveyor) -> None:
    found = surveyed(shared_faces / "hard")
    by_name = {photo.file: photo for photo in found.photos}
    sides = [photo for name, photo in by_name.items() if name.startswith("side_")]
    assert sum(abs(photo.pose.yaw) > 45 for photo in sides if photo.pose) >= len(sides) - 1
    hidden = [photo for name, photo in by_name.items() if name.startswith("occluded_")]
    assert sum(bool(photo.covered) for photo in hidden) >= 0.8 * len(hidden)
    assert {skip.file[:6] for skip in found.skipped if skip.kind == "no_face"} >= {"noface"}
    assert sum(skip.kind == "unreadable" for skip in found.skipped) == 3
    covered = measure_coverage(found)
    assert told(covered)["no_face"] == "14% of the photos (8 of 58) are without a face"
    assert gaps(covered)["tilt/up"] == "no faces looking up"
    assert not any(kind.startswith(("cover/", "pose/profile")) for kind in gaps(covered))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copies", "no_face", "all_low"])
def test_sets_of_200_real_photos_are_told(
    kind: str, shared_faces: Path, surveyed: sets.Surveyor, tmp_path: Path
) -> None:
    real = sets.photos(shared_faces / "calib", 200)
    if kind == "copies":
        sets.near_identical(real[0], tmp_path, 200)
    elif kind == "no_face":
        sets.textures(sets.copies(real[:140], tmp_path), 60)
    else:
        sets.darkened(real, tmp_path)
    found = measure_coverage(surveyed(tmp_path))
    assert kind in told(found)
    assert {"copies", "no_face", "all_low"} & set(told(found)) == {kind}
