from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.evaluation.accuracy.gate import MAX_SSIM_DROP, Gate
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.types import Precision

GOOD = Accuracy(
    faces=32,
    ssim=0.9999,
    ssim_worst=0.999,
    ssim_drop=0.0001,
    ssim_drop_worst=0.001,
    psnr_db=50.0,
    psnr_db_worst=45.0,
    perceptual=0.001,
    identity_cosine=0.999,
    identity_cosine_min=0.99,
    spread_ratio_worst=0.98,
    nonfinite=0,
    worst_faces=(3, 1),
)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_good_engine_passes_every_default(precision: Precision) -> None:
    verdict = Gate.default(precision).check(GOOD)
    assert verdict
    assert verdict.reasons == ()


@given(precision=st.sampled_from(list(Precision)), drop=st.floats(0, 0.05))
def test_the_limit_itself_still_passes(precision: Precision, drop: float) -> None:
    verdict = Gate.default(precision).check(replace(GOOD, ssim_drop=drop))
    assert verdict.passed == (drop <= MAX_SSIM_DROP[precision])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ssim_drop": 0.0234}, "the mean SSIM drop is 0.0234, at most 0.01 is allowed"),
        ({"ssim_drop": 0.010000001}, "the mean SSIM drop is 0.010000001, at most 0.01 is allowed"),
        ({"nonfinite": 2}, "2 of 32 faces hold NaN or infinity, 0 are allowed"),
        ({"spread_ratio_worst": 0.24}, "collapsed: a face spreads 0.24 times as far as FP32's, 0.5 to 2 is allowed"),
        ({"spread_ratio_worst": 2.5}, "blown up: a face spreads 2.5 times as far as FP32's, 0.5 to 2 is allowed"),
        ({"spread_ratio_worst": float("nan")}, "a face spreads nan times"),
        ({"ssim_drop": float("nan")}, "the mean SSIM drop is nan, at most 0.01"),
        ({"faces": 0}, "no face was judged, at least 1 is needed"),
    ],
)
def test_each_broken_limit_is_one_sentence_with_both_figures(change: dict[str, float], reason: str) -> None:
    verdict = Gate.default(Precision.INT8).check(replace(GOOD, **change))
    assert not verdict
    assert len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]


def test_optional_limits_hold_when_set() -> None:
    gate = Gate(max_ssim_drop=1.0, max_ssim_drop_worst=0.0005, max_perceptual=0.0001, min_identity=0.9999)
    assert gate.check(GOOD).reasons == (
        "the SSIM drop of the worst face is 0.001, at most 0.0005 is allowed",
        "the perceptual distance is 0.001, at most 0.0001 is allowed",
        "the mean identity cosine is 0.999, at least 0.9999 is allowed",
    )


def test_a_limit_without_a_measurement_fails() -> None:
    gate = Gate(max_ssim_drop=1.0, max_perceptual=0.1, min_identity=0.9)
    reasons = gate.check(replace(GOOD, perceptual=None, identity_cosine=None)).reasons
    assert [reason.split(",")[0] for reason in reasons] == [
        "the perceptual distance was not measured",
        "the mean identity cosine was not measured",
    ]
