from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from skimage.color import rgb2lab

from trt_facefusion.faces.curation.chip import EYES
from trt_facefusion.faces.curation.covering import detect_covers
from trt_facefusion.faces.curation.light import measure_exposure, measure_sharpness
from trt_facefusion.faces.curation.pose import DISTANCE_MM, MODEL_MM, solve_pose
from trt_facefusion.faces.curation.survey import Survey
from trt_facefusion.faces.curation.tone import UNDEREXPOSED_GAIN, measure_tone

GREY_RAMP = np.repeat(np.tile(np.linspace(0, 240, 64).astype(np.uint8), (64, 1))[..., None], 3, -1)
"""A photo in neutral light, with something white in it."""


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (128, 128, 3)).copy()


@given(st.integers(60, 240), st.integers(40, 200), st.integers(20, 180))
def test_skin_tone_is_the_individual_typology_angle(red: int, green: int, blue: int) -> None:
    assume(red > green + 8 and green > blue + 8)
    lightness, _, yellow = rgb2lab(np.array([red, green, blue]) / 255)
    found = measure_tone(flat((red, green, blue)), GREY_RAMP)
    assert found.ita is not None
    # Two libraries' Lab agree to half a step; what that is in degrees depends on how colourful the skin is.
    difference = math.radians(found.ita) - math.atan2(lightness - 50, yellow)
    assert abs(difference) * math.hypot(lightness - 50, yellow) < 0.5


@pytest.mark.parametrize(
    ("skin", "name"),
    [((245, 220, 200), "very light"), ((180, 130, 95), "tan"), ((141, 85, 50), "brown"), ((66, 40, 28), "dark")],
)
def test_skin_tones_have_the_names_of_their_classes(skin: tuple[int, int, int], name: str) -> None:
    assert measure_tone(flat(skin), GREY_RAMP).name == name


@pytest.mark.parametrize("skin", [(120, 120, 120), (255, 254, 251), (3, 2, 2)])
def test_skin_that_is_grey_burnt_out_or_black_has_no_tone(skin: tuple[int, int, int]) -> None:
    assert measure_tone(flat(skin), GREY_RAMP).ita is None


def test_only_a_photo_that_lacks_a_stop_of_light_is_brightened() -> None:
    skin, dim = flat((100, 70, 55)), (GREY_RAMP * 0.55).astype(np.uint8)
    assert (
        measure_tone(skin, dim).gain >= UNDEREXPOSED_GAIN
        and measure_tone(skin, dim).ita > measure_tone(skin, GREY_RAMP).ita
    )
    nearly = (GREY_RAMP * 0.8).astype(np.uint8)
    assert 1 < measure_tone(skin, nearly).gain < UNDEREXPOSED_GAIN
    assert measure_tone(skin, nearly).ita == measure_tone(skin, GREY_RAMP).ita


@given(st.floats(-75, 75), st.floats(-30, 30), st.floats(-60, 60))
def test_the_pose_of_projected_landmarks_is_found_again(yaw: float, pitch: float, roll: float) -> None:
    y, p, r = np.radians([yaw, pitch, roll])
    around_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    around_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    points = (MODEL_MM - MODEL_MM.mean(0)) @ (around_y @ around_x @ around_z).T + [0, 0, 20 * DISTANCE_MM]
    landmarks = (points[:, :2] / points[:, 2:] * 30000 + 200).astype(np.float32)
    found = solve_pose(landmarks)
    assert found is not None
    assert (found.yaw, found.pitch, found.roll) == pytest.approx((yaw, pitch, roll), abs=4)


def test_landmarks_in_one_point_have_no_pose() -> None:
    assert solve_pose(np.full((5, 2), 7, np.float32)) is None


def test_blur_lowers_the_sharpness_and_brightness_does_not_touch_it(some: Survey) -> None:
    for chip in some.chips[:6]:
        blurred = cv2.GaussianBlur(chip, (0, 0), 3)
        assert measure_sharpness(blurred) < measure_sharpness(chip) - 0.1
        assert measure_sharpness((chip * 0.6).astype(np.uint8)) == pytest.approx(measure_sharpness(chip), abs=0.02)


def test_exposure_tells_dark_burnt_out_and_one_sided_faces(some: Survey) -> None:
    chip = some.chips[0]
    plain = measure_exposure(chip)
    assert measure_exposure((chip * 0.3).astype(np.uint8)).lightness < plain.lightness - 20
    assert measure_exposure(np.clip(chip * 5.0, 0, 255).astype(np.uint8)).clipped_bright > 0.5
    lit = (chip * np.linspace(0.2, 1, 128)[None, :, None]).astype(np.uint8)
    assert measure_exposure(lit).side > plain.side + 5
    assert measure_exposure(np.ascontiguousarray(lit[:, ::-1])).side == pytest.approx(
        -measure_exposure(lit).side, abs=2
    )


def test_bars_and_masks_are_noticed_and_most_clear_faces_are_clear(some: Survey) -> None:
    assert sum(not detect_covers(chip) for chip in some.chips) >= 0.8 * len(some)
    for chip in some.chips[:8]:
        barred, masked = chip.copy(), chip.copy()
        barred[EYES] = 12
        masked[74:, 24:104] = (40, 90, 170)
        assert "eyes" in detect_covers(barred)
        assert "mouth" in detect_covers(masked)
