"""Figures that tell pictures of a network that is fed rightly from others."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trt_facefusion.evaluation.accuracy.plausible import Look, look


@pytest.fixture(scope="module")
def crops(sample_faces) -> np.ndarray:
    files = sorted(sample_faces.glob("*.jpg"))[:4]
    return np.stack([cv2.resize(cv2.imread(str(f))[..., ::-1], (64, 64)) for f in files])


def test_the_crop_itself_is_as_plausible_as_can_be(crops: np.ndarray) -> None:
    found = look(crops.astype(np.float32) / 255, crops)
    assert found.resemblance == pytest.approx(1.0) and found.saturated == 0 and not found.suspicious


def test_a_larger_picture_of_the_crop_resembles_it(crops: np.ndarray) -> None:
    large = np.stack([cv2.resize(crop, (256, 256), interpolation=cv2.INTER_CUBIC) for crop in crops])
    assert look(large.astype(np.float32) / 255, crops).resemblance > 0.98


def test_values_beyond_the_range_are_saturated(crops: np.ndarray) -> None:
    found = look(crops.astype(np.float32) / 255 * 8 - 3.5, crops)
    assert found.saturated > 0.5 and "saturated" in found.wrong[0]


def test_one_grey_is_flat(crops: np.ndarray) -> None:
    found = look(np.full((4, 64, 64, 3), 0.5, np.float32), crops)
    assert "flat" in found.wrong[0] and found.suspicious


def test_nan_does_not_hide_anything(crops: np.ndarray) -> None:
    broken = np.full((4, 64, 64, 3), np.nan, np.float32)
    assert look(broken, crops).wrong


def test_only_a_face_is_far_better() -> None:
    described = Look(0.0, 0.1, 0.41)
    assert Look(0.0, 0.2, 0.93).far_better_than(described)
    assert not Look(0.0, 0.2, 0.55).far_better_than(Look(0.0, 0.1, 0.05))
    assert not Look(0.0, 0.2, 0.93).far_better_than(Look(0.0, 0.1, 0.79))
