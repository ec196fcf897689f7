from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trt_facefusion.evaluation.accuracy.metrics import (
    PSNR_CAP_DB,
    decode_nchw,
    find_finite,
    measure_psnr_db,
    measure_ssim,
    spread,
)
from trt_facefusion.evaluation.accuracy.perceptual import PerceptualDistance


def pictures(count: int = 3, side: int = 64) -> np.ndarray:
    """Soft blobs with a few edges [N,side,side,3] in [0,1]."""
    coarse = np.random.default_rng(0).uniform(0.1, 0.9, (count, 8, 8, 3)).astype(np.float32)
    made = np.stack([cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC) for picture in coarse])
    made[:, side // 4 : side // 2, side // 3] = 0.05
    return made.clip(0, 1)


def damaged(kind: str, strength: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    whole = pictures()
    if kind == "noise":
        return (whole + rng.normal(0, 0.03 * strength, whole.shape).astype(np.float32)).clip(0, 1)
    if kind == "blur":
        return np.stack([cv2.GaussianBlur(picture, (0, 0), 0.7 * strength) for picture in whole])
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(60 / strength**1.5)]
    files = [cv2.imencode(".jpg", (picture * 255).round().astype(np.uint8), quality)[1] for picture in whole]
    return np.stack([cv2.imdecode(file, cv2.IMREAD_COLOR) for file in files]).astype(np.float32) / 255


@pytest.mark.parametrize("kind", ["noise", "blur", "jpeg"])
def test_every_metric_follows_the_damage(kind: str) -> None:
    whole, light, heavy = pictures(), damaged(kind, 1), damaged(kind, 3)
    perceptual = PerceptualDistance()
    assert (measure_psnr_db(whole, light) > measure_psnr_db(whole, heavy)).all()
    assert (measure_ssim(whole, light) > measure_ssim(whole, heavy)).all()
    assert (perceptual(whole, light) > 1e-4).all()
    assert (perceptual(whole, light) < perceptual(whole, heavy)).all()


def test_equal_pictures_are_perfect() -> None:
    whole = pictures()
    assert (measure_psnr_db(whole, whole) == PSNR_CAP_DB).all()
    assert measure_ssim(whole, whole) == pytest.approx(np.ones(3))
    assert PerceptualDistance()(whole, whole) == pytest.approx(np.zeros(3), abs=1e-9)
    assert spread(whole, whole) == pytest.approx(np.ones(3))


@settings(max_examples=30, deadline=None)
@given(pixels=arrays(np.float32, (2, 4, 4, 3), elements=st.floats(0, 0.5, width=32)), offset=st.floats(0.01, 0.5))
def test_psnr_of_a_constant_offset_is_its_decibels(pixels: np.ndarray, offset: float) -> None:
    moved = pixels.astype(np.float64) + offset
    assert measure_psnr_db(pixels, moved) == pytest.approx(np.full(2, -20 * np.log10(offset)), abs=1e-6)


def test_faces_are_scored_alone_and_in_order() -> None:
    whole = pictures(5)
    one_bad = whole.copy()
    one_bad[3] = one_bad[3].mean()
    for metric in (measure_psnr_db, measure_ssim):
        assert metric(whole, one_bad).argmin() == 3
    batch = PerceptualDistance()(np.tile(whole, (3, 1, 1, 1)), np.tile(one_bad, (3, 1, 1, 1)))
    assert np.nonzero(batch > 0.01)[0].tolist() == [3, 8, 13]
    assert spread(whole, one_bad)[3] < 0.01


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_finite_names_the_poisoned_face(poison: float) -> None:
    whole = pictures()
    whole[1, 5, 5, 2] = poison
    assert find_finite(whole).tolist() == [True, False, True]


def test_network_outputs_become_pictures() -> None:
    outputs = pictures().transpose(0, 3, 1, 2)
    assert decode_nchw(outputs * 2 - 1, -1, 1) == pytest.approx(pictures(), abs=1e-6)
    assert decode_nchw(outputs.astype(np.float16)).dtype == np.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    for metric in (measure_psnr_db, measure_ssim, spread, PerceptualDistance()):
        with pytest.raises(ValueError, match="picture"):
            metric(pictures(3), pictures(2))
    with pytest.raises(ValueError, match="picture"):
        measure_psnr_db(pictures()[..., :1], pictures()[..., :1])


def test_the_perceptual_distance_does_not_pass_for_lpips() -> None:
    assert "not LPIPS" in PerceptualDistance.name
    assert "NOT LPIPS" in (PerceptualDistance.__doc__ or "")
