"""Per-output figures by Polygraphy's comparison functions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy.metrics import PSNR_CAP_DB
from trt_facefusion.evaluation.comparison.outputs import OutputComparison


def pictures(seed: int, faces: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, (faces, 3, 8, 8)).astype(np.float32)


def test_the_figures_are_those_of_numpy_over_faces_not_over_filling(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = pictures(0), pictures(0) + 0.01 * pictures(1)
    compared = OutputComparison()
    compared.add({"picture": a[:4]}, {"picture": b[:4]}, faces=4, batch=4)
    filled = [np.concatenate([x[4:], x[4:] * 7]) for x in (a, b)]
    compared.add({"picture": filled[0]}, {"picture": filled[1]}, faces=1, batch=2)
    (found,) = compared.list_differences()
    errors = np.abs(b.astype(np.float64) - a).reshape(5, -1)
    assert (found.name, found.faces, found.nonfinite) == ("picture", 5, 0)
    assert found.max_abs == pytest.approx(errors.max())
    assert found.mean_abs == pytest.approx(errors.mean())
    assert found.p99_abs == pytest.approx(np.quantile(errors, 0.99, axis=1).max())
    assert found.median_rel == pytest.approx(np.median(errors / a.reshape(5, -1), axis=1).mean(), rel=1e-5)
    peaks = a.reshape(5, -1).max(1)
    assert found.psnr_db == pytest.approx((20 * np.log10(peaks) - 10 * np.log10((errors**2).mean(1))).mean())
    cosines = [np.vdot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert found.cosine_worst == pytest.approx(min(cosines), abs=1e-5)
    assert capsys.readouterr() == ("", "")


def test_equal_outputs_are_exact_and_fit_into_json() -> None:
    compared = OutputComparison()
    compared.add({"y": np.zeros((1, 3), np.float16)}, {"y": np.zeros((1, 3), np.float32)}, faces=1, batch=1)
    (found,) = compared.list_differences()
    assert (found.max_abs, found.psnr_db, found.cosine) == (0, PSNR_CAP_DB, 1)
    json.dumps(found.as_dict(), allow_nan=False)


def test_faces_that_are_not_finite_are_counted_and_left_out() -> None:
    a, b = pictures(0), pictures(0)
    b[1, 0, 0, 0] = np.nan
    compared = OutputComparison()
    compared.add({"y": a}, {"y": b}, faces=5, batch=5)
    (found,) = compared.list_differences()
    assert (found.faces, found.nonfinite, found.max_abs) == (5, 1, 0)


def test_outputs_that_do_not_match_are_told() -> None:
    with pytest.raises(BadInputError, match="no output in common"):
        OutputComparison().add({"a": pictures(0)}, {"b": pictures(0)}, faces=5, batch=5)
    with pytest.raises(BadInputError, match=r"\[3, 8, 8\] on one side and \[3, 8, 4\]"):
        OutputComparison().add({"a": pictures(0)}, {"a": pictures(0)[..., :4]}, faces=5, batch=5)
