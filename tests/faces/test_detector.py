from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from trt_facefusion.faces.decode import read_image
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.types import Image


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def portrait(shared_faces: Path) -> Image:
    return read_image(shared_faces / "eval" / "face_0003.jpg")


def test_no_face_in_noise_or_slivers(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert detector.detect(noise) == []
    assert detector.detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert detector.detect(np.zeros((2, 5000, 3), np.uint8)) == []


def test_landmarks_lie_inside_the_box_in_template_order(detector: FaceDetector, portrait: Image) -> None:
    face = detector.detect(portrait)[0]
    x, y, width, height = face.box
    assert face.landmarks.shape == (5, 2)
    assert ((face.landmarks >= [x, y]) & (face.landmarks <= [x + width, y + height])).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert nose[1] < left_mouth[1]


@pytest.mark.parametrize("zoom", [2, 3, 7])
def test_a_large_photo_gives_the_landmarks_of_the_small_one(detector: FaceDetector, portrait: Image, zoom: int) -> None:
    large = cv2.resize(portrait, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    small, scaled = detector.detect(portrait)[0], detector.detect(large)[0]
    eyes_px = np.linalg.norm(small.landmarks[0] - small.landmarks[1])
    assert np.abs(scaled.landmarks / zoom - small.landmarks).max() < 0.12 * eyes_px


def test_a_small_face_in_a_large_photo_gives_the_same_landmarks(detector: FaceDetector, portrait: Image) -> None:
    scene = cv2.copyMakeBorder(portrait, 900, 700, 1500, 400, cv2.BORDER_REPLICATE)
    small, placed = detector.detect(portrait)[0], detector.detect(scene)[0]
    eyes_px = np.linalg.norm(small.landmarks[0] - small.landmarks[1])
    assert np.abs(placed.landmarks - [1500, 900] - small.landmarks).max() < 0.12 * eyes_px


@pytest.mark.parametrize("turns", [1, 3])
def test_a_photo_on_its_side_gives_the_same_points(detector: FaceDetector, shared_faces: Path, turns: int) -> None:
    lying = read_image(shared_faces / "hard" / "rotated_01.jpg")
    upright = np.ascontiguousarray(np.rot90(lying, 3))
    face, turned = detector.detect(upright)[0], detector.detect(np.ascontiguousarray(np.rot90(upright, turns)))[0]
    eyes = [np.mean(f.landmarks[:2], axis=0) - np.mean(f.landmarks[3:], axis=0) for f in (face, turned)]
    angle = np.degrees(np.arctan2(*eyes[0]) - np.arctan2(*eyes[1]))
    assert abs((angle + 90 * turns + 180) % 360 - 180) < 15
    assert turned.side_px == pytest.approx(face.side_px, rel=0.15)


def test_the_largest_face_comes_first(detector: FaceDetector, shared_faces: Path) -> None:
    faces = detector.detect(read_image(shared_faces / "hard" / "several_02.jpg"))
    assert len(faces) == 3
    assert [f.area for f in faces] == sorted((f.area for f in faces), reverse=True)


def test_creation_prints_nothing_and_leaves_the_log_level(capfd: pytest.CaptureFixture[str]) -> None:
    level = cv2.utils.logging.getLogLevel()
    FaceDetector(0.9).detect(np.zeros((64, 64, 3), np.uint8))
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == level


def test_the_digest_follows_the_threshold() -> None:
    assert FaceDetector(0.7).digest == FaceDetector(0.7).digest != FaceDetector(0.8).digest


@pytest.mark.parametrize(("left", "top"), [(4000, 3100), (1010, 8), (8870, 5900)])
def test_a_face_of_64_px_is_found_in_54_megapixels(sample_faces: Path, left: int, top: int) -> None:
    face = read_image(sample_faces / "sample_001.jpg")
    detector = FaceDetector()
    detected = detector.detect(face)[0]
    scale = 64 / detected.side_px
    small = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rows = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    photo = cv2.resize(rows, (9000, 6000), interpolation=cv2.INTER_CUBIC)
    left, top = min(left, 9000 - small.shape[1]), min(top, 6000 - small.shape[0])
    assert detector._detect_closely(photo) == []
    photo[top : top + small.shape[0], left : left + small.shape[1]] = small
    faces = detector._detect_closely(photo)
    assert len(faces) == 1, "a face on the seam of two tiles is one face"
    assert np.abs(faces[0].landmarks - (detected.landmarks * scale + [left, top])).max() < 8
    assert detector.detect(photo)[0].box == faces[0].box
