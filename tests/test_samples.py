"""The bundled faces are faces, differ from each other, and are nobody of the photos they were learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from trt_facefusion.faces.align import Landmarks, align_crop

DATA = Path(__file__).resolve().parents[1] / "trt_facefusion" / "data"
MIN_SCORE = 0.8
MIN_DISTANCE = 0.45

Picture = NDArray[np.uint8]


def largest_face(picture: Picture) -> tuple[float, Landmarks]:
    detector = cv2.FaceDetectorYN.create(str(DATA / "face_detection_yunet_2023mar.onnx"), "", picture.shape[1::-1], 0.6)
    _, faces = detector.detect(picture)
    if faces is None:
        return 0.0, np.zeros((5, 2), np.float32)
    face = max(faces, key=lambda f: f[2] * f[3])
    return float(face[14]), face[4:14].reshape(5, 2)


def embeddings(pictures: list[Picture], batch: int = 16) -> NDArray[np.float32]:
    session = ort.InferenceSession(DATA / "dlib_face_recognition_resnet_v1.onnx", providers=["CPUExecutionProvider"])
    chips = [align_crop(p, largest_face(p)[1], "dlib_150", 150)[:, :, ::-1].transpose(2, 0, 1) for p in pictures]
    batches = [np.stack(chips[i : i + batch]).astype(np.float32) for i in range(0, len(chips), batch)]
    return np.concatenate([session.run(None, {"image": chunk})[0] for chunk in batches])


@pytest.fixture(scope="module")
def pictures(sample_faces: Path) -> list[Picture]:
    loaded = [cv2.imread(str(path)) for path in sorted(sample_faces.iterdir())]
    return [picture for picture in loaded if picture is not None]


@pytest.fixture(scope="module")
def identities(pictures: list[Picture]) -> NDArray[np.float32]:
    return embeddings(pictures)


def test_there_are_enough_and_all_can_be_read(sample_faces: Path, pictures: list[Picture]) -> None:
    assert len(pictures) == len(list(sample_faces.iterdir())) >= 64
    assert {picture.shape for picture in pictures} == {(256, 256, 3)}


def test_the_detector_finds_each_face(pictures: list[Picture]) -> None:
    assert min(largest_face(picture)[0] for picture in pictures) >= MIN_SCORE


def test_no_face_is_there_twice(identities: NDArray[np.float32]) -> None:
    distance = np.linalg.norm(identities[:, None] - identities[None], axis=-1)
    assert distance[np.triu_indices(len(identities), 1)].min() > 0.3


def test_skin_is_light_and_dark(pictures: list[Picture]) -> None:
    faces = [align_crop(p, largest_face(p)[1], "arcface_128", 128)[32:96, 32:96] for p in pictures]
    lightness = [cv2.cvtColor(face, cv2.COLOR_BGR2LAB)[..., 0].mean() * 100 / 255 for face in faces]
    assert np.ptp(np.percentile(lightness, (5, 95))) > 25


def test_the_figures_name_these_files(sample_faces: Path) -> None:
    figures = json.loads((sample_faces.parent / "samples.json").read_text())
    assert [row["file"] for row in figures["files"]] == sorted(path.name for path in sample_faces.iterdir())


@pytest.mark.slow
def test_nobody_of_the_photos_is_among_them(identities: NDArray[np.float32], shared_faces: Path) -> None:
    paths = [path for split in ("calib", "eval") for path in sorted((shared_faces / split).iterdir())]
    photos = [picture for picture in (cv2.imread(str(path)) for path in paths) if picture is not None]
    mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in photos]
    known = embeddings([*photos, *mirrored])
    assert np.linalg.norm(identities[:, None] - known[None], axis=-1).min() > MIN_DISTANCE
