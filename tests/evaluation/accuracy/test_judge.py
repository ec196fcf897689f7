from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trt_facefusion.errors import ModelError
from trt_facefusion.evaluation.accuracy.identity import measure_identity_cosine
from trt_facefusion.evaluation.accuracy.judge import judge
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import find_perceptual, open_metrics
from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.faces.folder import read_faces


def pictures(count: int = 4, side: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(0).uniform(0.1, 0.9, (count, 6, 6, 3))
    return coarse.repeat(side // 6, 1).repeat(side // 6, 2).astype(np.float32)


def test_an_equal_engine_loses_nothing() -> None:
    accuracy = judge(pictures(), pictures(), open_metrics(Tools()))
    assert accuracy.faces == 4
    assert accuracy.ssim_drop == pytest.approx(0, abs=1e-9)
    assert accuracy["psnr_db_worst"] == 100
    assert accuracy[find_perceptual(Tools())[0].key] == pytest.approx(0, abs=1e-9)
    assert accuracy.figures["identity_cosine"] is None
    assert accuracy.spread_ratio_worst == pytest.approx(1)


def test_means_and_worst_faces_come_from_the_faces() -> None:
    candidate = pictures() + np.array([0.001, 0.05, 0.002, 0.1], np.float32)[
        :, None, None, None
    ] * np.random.default_rng(1).normal(size=pictures().shape).astype(np.float32)
    accuracy = judge(pictures(), candidate)
    assert accuracy.worst_faces == (3, 1, 2, 0)
    assert accuracy["ssim_worst"] < accuracy["ssim"] < 1
    assert accuracy.ssim_drop == pytest.approx(1 - accuracy["ssim"])
    assert accuracy["ssim_drop_worst"] == pytest.approx(1 - accuracy["ssim_worst"])
    assert accuracy["psnr_db_worst"] < accuracy["psnr_db"]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_face_with_nan_or_infinity_counts_and_scores_zero(poison: float) -> None:
    candidate = pictures()
    candidate[2, 0, 0, 0] = poison
    accuracy = judge(pictures(), candidate, open_metrics(Tools(DlibEmbedder(), "arcface_128")))
    assert accuracy.nonfinite == 1
    assert accuracy["ssim_worst"] == accuracy["psnr_db_worst"] == accuracy["identity_cosine_min"] == 0
    assert accuracy.worst_faces[0] == 2
    assert accuracy.spread_ratio_worst < 0.01
    json.dumps(accuracy.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "candidate",
    [
        np.full((4, 48, 48, 3), np.nan, np.float32),
        np.zeros((4, 48, 48, 3), np.float32),
        pictures() * np.float32(3e38),
        pictures().astype(np.float16),
    ],
    ids=["all NaN", "all black", "blown up", "half"],
)
def test_whatever_an_engine_gives_the_figures_are_finite(candidate: np.ndarray) -> None:
    accuracy = judge(pictures(), candidate, open_metrics(Tools()))
    json.dumps(accuracy.as_dict(), allow_nan=False)
    if candidate.dtype == np.float16:
        assert accuracy.ssim_drop < 1e-3
    else:
        assert not 0.5 < accuracy.spread_ratio_worst < 2


def test_values_outside_zero_to_one_are_clipped_for_the_eye_but_not_for_the_spread() -> None:
    white = np.concatenate([pictures(), np.ones((1, 48, 48, 3), np.float32)])
    beyond = white.copy()
    beyond[4] += np.random.default_rng(0).uniform(0, 1, (48, 48, 3)).astype(np.float32)
    accuracy = judge(white, beyond)
    assert accuracy.ssim_drop == pytest.approx(0, abs=1e-9)
    assert accuracy.spread_ratio_worst > 2


def test_a_broken_fp32_model_is_the_models_fault() -> None:
    reference = pictures()
    reference[1] = np.nan
    with pytest.raises(ModelError, match="FP32 model itself gives NaN or infinity on 1 of 4 faces"):
        judge(reference, pictures())


def test_shapes_must_fit_and_hold_a_face() -> None:
    for reference, candidate in (
        (pictures(2), pictures(3)),
        (pictures(0), pictures(0)),
        (pictures().transpose(0, 3, 1, 2), pictures().transpose(0, 3, 1, 2)),
    ):
        with pytest.raises(ValueError, match=r"\[N,H,W,3\]"):
            judge(reference, candidate)


def test_identity_survives_small_errors_and_not_another_person(shared_faces: Path, tmp_path: Path) -> None:
    for path in sorted((shared_faces / "eval").glob("*.jpg"))[:6]:
        (tmp_path / path.name).symlink_to(path)
    embedder = DlibEmbedder()
    crops = read_faces(tmp_path, template="arcface_128", size=128, embedder=embedder).crops
    faces = np.asarray(crops, np.float32) / 255
    noisy = (faces + np.random.default_rng(0).normal(0, 0.02, faces.shape).astype(np.float32)).clip(0, 1)
    same = measure_identity_cosine(faces, noisy, "arcface_128", embedder)
    other = measure_identity_cosine(faces, np.roll(faces, 1, axis=0), "arcface_128", embedder)
    assert measure_identity_cosine(faces, faces, "arcface_128", embedder) == pytest.approx(np.ones(6), abs=1e-5)
    assert same.min() > 0.97 > other.max()
    accuracy = judge(faces, noisy, open_metrics(Tools(embedder, "arcface_128")))
    assert accuracy["identity_cosine"] == pytest.approx(same.mean())
    assert accuracy["identity_cosine_min"] == pytest.approx(same.min())
