from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.faces.align import TEMPLATES, align_crop, fit_similarity, fit_templates, warp


@given(
    angle=st.floats(-3, 3), scale=st.floats(0.1, 10), x=st.floats(-500, 500), name=st.sampled_from(sorted(TEMPLATES))
)
def test_similarity_finds_a_known_transform(angle: float, scale: float, x: float, name: str) -> None:
    points = TEMPLATES[name] * 100
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (points @ turn.T + [x, -x]).astype(np.float32)
    assert fit_similarity(points, moved)[:, :2] == pytest.approx(turn, abs=1e-3 * scale)


def test_coinciding_landmarks_have_no_transform() -> None:
    with pytest.raises(ValueError, match="coincide"):
        fit_similarity(np.ones((5, 2), np.float32), TEMPLATES["arcface_128"])


def test_arcface_templates_are_the_published_pixels() -> None:
    pixels = TEMPLATES["arcface_112_v2"] * 112
    assert pixels[0] == pytest.approx([38.2946, 51.6963], abs=1e-4)
    assert TEMPLATES["arcface_128"] * 128 == pytest.approx(pixels + np.array([8, 0]), abs=1e-4)


def test_a_template_maps_onto_itself_and_shrinking_keeps_the_mean() -> None:
    matrix = fit_templates("ffhq_512", 512, "ffhq_512", 256)
    assert matrix == pytest.approx(np.array([[0.5, 0, 0], [0, 0.5, 0]]), abs=1e-4)
    stripes = np.tile(np.array([[0, 255]], np.uint8), (512, 256))[..., None].repeat(3, 2)
    crop = align_crop(stripes, TEMPLATES["ffhq_512"] * 512, "ffhq_512", 64)
    assert np.abs(crop.astype(int) - 127).max() <= 4, "fine stripes must not alias"


@pytest.mark.parametrize("shrunk_by", [3, 4.5, 7, 10.5])
@pytest.mark.parametrize("turned", [0, 0.4])
def test_a_ramp_of_brightness_stays_where_it_is_however_much_it_shrinks(shrunk_by: float, turned: float) -> None:
    rows, columns = np.mgrid[:1453, :1451].astype(np.float32)
    ramp = np.repeat(((rows + columns) / 12)[..., None], 3, 2).astype(np.uint8)
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]) / shrunk_by
    matrix = np.hstack([turn, (32 - turn @ np.array([725.0, 725.0]))[:, None]])
    found = warp(ramp, matrix, 64).astype(np.float64)
    back = cv2.invertAffineTransform(matrix)
    y, x = np.mgrid[:64, :64]
    right = np.stack([x, y], -1) @ back[:, :2].T + back[:, 2]
    error = found[..., 0] - (right.sum(-1) / 12 - 0.5)  # a ramp in whole numbers lies half a step below
    assert np.abs(error).max() < 1.1
    assert abs(error.mean()) < 0.1, "a shift by a tenth of a block would show"
