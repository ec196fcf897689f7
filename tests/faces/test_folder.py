from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.decode import MAX_FILE_BYTES
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.faces.folder import FaceSet, folder_digest, image_files, read_faces, require_enough


class MeanColour:
    """A cheap embedder: the mean colour of a chip."""

    name = "mean"
    template = "arcface_112_v2"
    size = 16
    same_person = 5.0
    other_person = 6.0
    dim = 3
    digest = "mean-1"

    def embed(self, chips: np.ndarray) -> np.ndarray:
        return chips.mean(axis=(1, 2)).astype(np.float32)

    def comparable(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings


def read(folder: Path, **options: object) -> FaceSet:
    return read_faces(folder, **{"template": "arcface_128", "size": 64, "embedder": MeanColour(), **options})


def digest(folder: Path, **options: object) -> str:
    return folder_digest(folder, **{"template": "arcface_128", "size": 64, "embedder": MeanColour(), **options})


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Pictures that pass for aligned crops."""
    folder = tmp_path / "crops"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(["b.png", "a.jpg", "more/c.webp", "D.PNG"]):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).resize((80, 80)).save(folder / name)
    return folder


def test_aligned_crops_are_taken_as_they_are_in_sorted_order(crops: Path) -> None:
    stages = []
    faces = read(crops, aligned=True, progress=lambda *step: stages.append(step))
    assert faces.files == ("D.PNG", "a.jpg", "b.png", "more/c.webp")
    assert faces.crops.shape == (4, 64, 64, 3)
    assert faces.embeddings.shape == (4, 3)
    assert stages[-1] == ("faces", 4, 4)
    whole = read(crops, aligned=True, size=80)
    assert np.array_equal(whole.crops[2], np.asarray(PIL.Image.open(crops / "b.png")))


def test_every_photo_left_out_has_its_reason(crops: Path) -> None:
    shutil.copy(crops / "b.png", crops / "copy.png")
    PIL.Image.open(crops / "b.png").resize((60, 60)).save(crops / "smaller.jpg", quality=40)
    PIL.Image.new("RGB", (80, 60)).save(crops / "wide.png")
    PIL.Image.new("RGB", (20, 20)).save(crops / "small.png")
    (crops / "broken.jpg").write_text("text")
    (crops / "phone.HEIC").write_bytes(b"heic")
    (crops / "dangling.jpg").symlink_to("nowhere")
    (crops / "notes.txt").write_text("not a photo")
    (crops / ".hidden.png").write_text("not seen")
    with (crops / "huge.tif").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    faces = read(crops, aligned=True)
    assert len(faces) == 4
    assert {skip.file: skip.kind for skip in faces.skipped} == {
        "broken.jpg": "unreadable",
        "copy.png": "duplicate",
        "dangling.jpg": "unreadable",
        "huge.tif": "too_large",
        "phone.HEIC": "unreadable",
        "small.png": "tiny_face",
        "smaller.jpg": "duplicate",
        "wide.png": "not_square",
    }
    assert faces.summary() == {"unreadable": 3, "too_large": 1, "tiny_face": 1, "duplicate": 2, "not_square": 1}
    assert "b.png" in next(skip.reason for skip in faces.skipped if skip.file == "copy.png")
    assert faces.folder_digest == digest(crops, aligned=True)


def test_the_folder_digest_follows_contents_and_settings_only(crops: Path, tmp_path: Path) -> None:
    before = digest(crops, aligned=True)
    assert read(crops, aligned=True).folder_digest == before
    moved = shutil.copytree(crops, tmp_path / "elsewhere")
    (moved / "b.png").rename(moved / "bb.png")
    assert digest(moved, aligned=True) == before
    changes = {"template": "ffhq_512"}, {"size": 65}, {"aligned": False}, {"min_face_px": 9}
    assert len({before, *(digest(crops, **{"aligned": True, **change}) for change in changes)}) == 5
    assert digest(crops, detector=FaceDetector(0.9)) != digest(crops)
    (crops / "new.png").write_bytes(b"unreadable, but there")
    assert digest(crops, aligned=True) != before


def test_a_subset_has_its_own_digest_and_keeps_the_record(crops: Path) -> None:
    (crops / "broken.jpg").write_text("text")
    faces = read(crops, aligned=True)
    part = faces.subset([2, 0])
    assert part.files == ("b.png", "D.PNG")
    assert np.array_equal(part.crops[0], faces.crops[2])
    assert part.summary() == {"unreadable": 1}
    assert len({faces.digest, part.digest, faces.subset([0, 2]).digest}) == 3
    assert faces.subset(range(4)).digest == faces.digest


def test_folders_without_photos_each_have_their_message(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    for name, message in (
        ("absent", "there is no folder"),
        ("texts/a.txt", "is a file, not a folder"),
        ("empty", "is empty"),
        ("texts", "no photo among its 1 files"),
    ):
        for ask in (read, digest, image_files):
            with pytest.raises(FacesError, match=message) as caught:
                ask(tmp_path / name)
            assert "jpg" in caught.value.remedy


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_locked_folder_is_an_error(crops: Path) -> None:
    (crops / "more").chmod(0)
    try:
        with pytest.raises(FacesError, match="cannot be read"):
            read(crops, aligned=True)
    finally:
        (crops / "more").chmod(0o755)


def test_too_few_faces_say_how_many_to_add_and_why_photos_were_skipped(crops: Path) -> None:
    (crops / "broken.jpg").write_text("text")
    faces = read(crops, aligned=True)
    with pytest.raises(FacesError, match=r"only 4 usable faces, at least 32 .*\(1 skipped: 1 unreadable\)") as caught:
        require_enough(faces)
    assert "at least 28 photos" in caught.value.remedy
    assert "4 usable faces" in (require_enough(faces, minimum=4) or "")
    assert require_enough(faces, minimum=2, advised=4) is None
    with pytest.raises(FacesError, match="only 0 usable faces"):
        require_enough(replace(faces, files=()))


def test_photos_that_hold_no_face_leave_an_empty_set(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (64, 64), "grey").save(tmp_path / "flat.png")
    faces = read(tmp_path)
    assert faces.crops.shape == (0, 64, 64, 3)
    assert faces.embeddings.shape == (0, 3)
    assert faces.summary() == {"no_face": 1}


def test_hard_photos_are_kept_or_skipped_as_a_person_would(shared_faces: Path) -> None:
    faces = read_faces(shared_faces / "hard", template="arcface_128", size=64, embedder=MeanColour())
    skipped = {skip.file: skip.kind for skip in faces.skipped}
    assert {file for file, kind in skipped.items() if kind == "tiny_face"} == {"tiny_02.jpg", "tiny_03.jpg"}
    assert {file.split("_")[0] for file, kind in skipped.items() if kind == "unreadable"} == {"broken"}
    assert all(file.startswith(("noface", "bright", "blurred")) for file, kind in skipped.items() if kind == "no_face")
    assert len(faces) + len(skipped) == 58
    assert "duplicate" not in faces.summary(), "all hard photos are different pictures"


def test_other_copies_of_a_photo_are_found_and_other_people_are_not(shared_faces: Path, tmp_path: Path) -> None:
    for index, path in enumerate(sorted((shared_faces / "eval").glob("*.jpg"))[:8]):
        shutil.copy(path, tmp_path / f"{index}_a.jpg")
        photo = cv2.imread(str(path))
        shrunk = cv2.resize(photo, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / f"{index}_b.jpg"), shrunk, [cv2.IMWRITE_JPEG_QUALITY, 50])
        cv2.imwrite(str(tmp_path / f"{index}_c.png"), cv2.convertScaleAbs(photo, alpha=1.15, beta=5))
    faces = read(tmp_path)
    assert faces.files == tuple(f"{index}_a.jpg" for index in range(8))
    assert faces.summary() == {"duplicate": 16}


def test_crops_read_as_aligned_keep_their_identity(shared_faces: Path, tmp_path: Path) -> None:
    for path in sorted((shared_faces / "eval").glob("*.jpg"))[:4]:
        shutil.copy(path, tmp_path)
    photos = read_faces(tmp_path, template="arcface_128", size=256, embedder=DlibEmbedder())
    folder = tmp_path / "aligned"
    folder.mkdir()
    for name, crop in zip(photos.files, photos.crops, strict=True):
        PIL.Image.fromarray(crop).save(folder / f"{Path(name).stem}.png")
    again = read_faces(folder, template="arcface_128", size=256, embedder=DlibEmbedder(), aligned=True)
    assert np.array_equal(again.crops, photos.crops)
    assert np.linalg.norm(again.embeddings - photos.embeddings, axis=1).max() < 0.25
