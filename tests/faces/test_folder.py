from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.decode import can_read_heic, read_image
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.faces.faceset import FaceSet, require_enough
from trt_facefusion.faces.find import list_photos
from trt_facefusion.faces.folder import digest_folder, read_faces
from trt_facefusion.faces.image_file import MAX_FILE_BYTES


class MeanColour:
    """A cheap embedder: the mean colour of a chip."""

    name = "mean"
    template = "arcface_112_v2"
    size = 16
    same_person = 5.0
    other_person = 6.0
    dim = fed_dim = 3
    converter = None
    digest = "mean-1"

    def embed(self, chips: np.ndarray) -> np.ndarray:
        return chips.mean(axis=(1, 2)).astype(np.float32)

    def make_comparable(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings


def read(folder: Path, **options: object) -> FaceSet:
    return read_faces(folder, **{"template": "arcface_128", "size": 64, "embedder": MeanColour(), **options})


def digest(folder: Path, **options: object) -> str:
    return digest_folder(folder, **{"template": "arcface_128", "size": 64, "embedder": MeanColour(), **options})


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
    faces = read(crops, aligned=True, size=80)
    assert np.array_equal(faces.crops[2], np.asarray(PIL.Image.open(crops / "b.png")))


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
    assert faces.count_skipped() == {"unreadable": 3, "too_large": 1, "tiny_face": 1, "duplicate": 2, "not_square": 1}
    assert "b.png" in next(skip.reason for skip in faces.skipped if skip.file == "copy.png")
    assert faces.folder_digest == digest(crops, aligned=True)


def test_photos_are_known_by_their_content_whatever_they_are_called(crops: Path) -> None:
    for index, name in enumerate(["bare", "x.jfif", "x.JPG_large", "x.pjpeg", "really a webp.jpg", "jpeg.heic"]):
        pixels = np.random.default_rng(50 + index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        kind = "WEBP" if "webp" in name else "JPEG"
        PIL.Image.fromarray(pixels).resize((80, 80)).save(crops / name, kind)
    (crops / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (crops / "a.txt").write_text("BM is no bitmap")
    (crops / "phone.bin").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (crops / "D.NEF").write_bytes(b"II*\0")
    (crops / "alone.cr2").write_bytes(b"II*\0")
    faces = read(crops, aligned=True)
    assert len(faces) == 4 + 6
    reasons = {skip.file: skip.reason for skip in faces.skipped}
    assert set(reasons) == {"phone.bin", "alone.cr2"}, "D.NEF lies beside D.PNG"
    assert "pip install pillow-heif" in reasons["phone.bin"] or can_read_heic()
    assert faces.folder_digest == digest(crops, aligned=True)


def test_hidden_and_system_folders_are_left_out_and_said(crops: Path) -> None:
    before = read(crops, aligned=True)
    assert before.note is None
    for name in ("@eaDir", ".thumbnails", "__MACOSX", "$RECYCLE.BIN", "#recycle", "more/@eaDir"):
        (crops / name).mkdir()
        shutil.copy(crops / "b.png", crops / name / "other.png")
    (crops / "._b.png").write_bytes(b"resource fork")
    (crops / "circle").symlink_to(crops, target_is_directory=True)
    faces = read(crops, aligned=True)
    assert (faces.files, faces.skipped, faces.folder_digest) == (before.files, (), before.folder_digest)
    assert faces.note == (
        "not looked at: 6 hidden or system folders (#recycle, $RECYCLE.BIN, .thumbnails, ...), 1 hidden file, "
        "1 link to folders"
    )
    assert len(read(crops / "@eaDir", aligned=True)) == 1, "named by itself it is read"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_told_and_not_opened(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(crops / "pipe.jpg")
    os.mkfifo(crops / "pipe without a suffix")
    (crops / "zero.jpg").symlink_to("/dev/zero")
    (crops / "self.jpg").symlink_to("self.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(crops)  # a socket's path is short
        listener.bind("socket.jpg")
        faces = read(crops, aligned=True)
    reasons = {skip.file: skip.reason for skip in faces.skipped}
    assert len(faces) == 4
    assert set(reasons) == {"pipe.jpg", "zero.jpg", "self.jpg", "socket.jpg"}
    assert "a pipe, a device or a socket" in reasons["pipe.jpg"]
    assert "a link that leads to no file" in reasons["self.jpg"]
    for path in (crops / "pipe.jpg", crops / "self.jpg", Path("/dev/zero"), tmp_path / ("x" * 300), Path("a\0b")):
        with pytest.raises(FacesError):
            read(path)
        with pytest.raises(FacesError):
            read_image(path)


def test_names_that_are_not_utf8_come_back_as_they_are(crops: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.png")
    try:
        (crops / "b.png").rename(crops / name)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    shutil.copy(crops / name, crops / "zz.png")
    faces = read(crops, aligned=True)
    assert name in faces.files
    assert (crops / name).samefile(crops / faces.files[faces.files.index(name)])
    assert faces.skipped[0].reason == f"the same file as {name}"
    assert faces.folder_digest == digest(crops, aligned=True)


@pytest.mark.parametrize("names", [("a_small.jpg", "b_large.png", "c_middle.webp"), ("c.jpg", "a.png", "b.webp")])
def test_of_copies_in_several_sizes_the_largest_is_taken(
    sample_faces: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    for photo in (1, 2):
        photograph = PIL.Image.open(sample_faces / f"sample_00{photo}.jpg")
        for name, side in zip(names, (100, 256, 160), strict=True):
            photograph.resize((side, side)).save(tmp_path / f"{photo}{name}")
    faces = read(tmp_path)
    assert set(faces.files) == {f"1{names[1]}", f"2{names[1]}"}
    assert faces.count_skipped() == {"duplicate": 4}
    assert len(faces.crops) == len(faces.embeddings) == len(faces.digests) == 2
    replaced = any("which is larger" in skip.reason for skip in faces.skipped)
    assert replaced == (names[0] < names[1])
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in faces.files:
        shutil.move(tmp_path / file, alone / file)
    again = read(alone)
    assert again.digest == faces.digest
    assert np.array_equal(again.crops, faces.crops)
    assert np.array_equal(again.embeddings, faces.embeddings)


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
    assert part.count_skipped() == {"unreadable": 1}
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
        for ask in (read, digest, list_photos):
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
    assert faces.count_skipped() == {"no_face": 1}


def test_hard_photos_are_kept_or_skipped_as_a_person_would(shared_faces: Path) -> None:
    faces = read_faces(shared_faces / "hard", template="arcface_128", size=64, embedder=MeanColour())
    skipped = {skip.file: skip.kind for skip in faces.skipped}
    assert {file for file, kind in skipped.items() if kind == "tiny_face"} == {"tiny_02.jpg", "tiny_03.jpg"}
    assert {file.split("_")[0] for file, kind in skipped.items() if kind == "unreadable"} == {"broken"}
    assert all(file.startswith(("noface", "bright", "blurred")) for file, kind in skipped.items() if kind == "no_face")
    assert len(faces) + len(skipped) == 58
    assert "duplicate" not in faces.count_skipped(), "all hard photos are different pictures"


def test_other_copies_of_a_photo_are_found_and_other_people_are_not(shared_faces: Path, tmp_path: Path) -> None:
    for index, path in enumerate(sorted((shared_faces / "eval").glob("*.jpg"))[:8]):
        shutil.copy(path, tmp_path / f"{index}_a.jpg")
        photo = cv2.imread(str(path))
        shrunk = cv2.resize(photo, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / f"{index}_b.jpg"), shrunk, [cv2.IMWRITE_JPEG_QUALITY, 50])
        cv2.imwrite(str(tmp_path / f"{index}_c.png"), cv2.convertScaleAbs(photo, alpha=1.15, beta=5))
    faces = read(tmp_path)
    assert faces.files == tuple(f"{index}_a.jpg" for index in range(8))
    assert faces.count_skipped() == {"duplicate": 16}


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
