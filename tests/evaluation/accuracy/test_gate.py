from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.evaluation.accuracy.gate import MAX_SSIM_DROP, Limits
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.types import Precision

GOOD = Accuracy(
    faces=32,
    figures={
        "ssim": 0.9999,
        "ssim_worst": 0.999,
        "ssim_drop": 0.0001,
        "ssim_drop_worst": 0.001,
        "psnr_db": 50.0,
        "psnr_db_worst": 45.0,
        "perceptual": 0.001,
        "identity_cosine": 0.999,
        "identity_cosine_min": 0.99,
    },
    spread_ratio_worst=0.98,
    nonfinite=0,
    worst_faces=(3, 1),
)


def but(**changes: float | None) -> Accuracy:
    """A good engine, but for some figures."""
    figures = {**GOOD.figures, **{key: value for key, value in changes.items() if key in GOOD.figures}}
    others: dict[str, Any] = {key: value for key, value in changes.items() if key not in GOOD.figures}
    return replace(GOOD, figures=figures, **others)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_good_engine_passes_every_default(precision: Precision) -> None:
    verdict = Limits.default(precision).check(GOOD)
    assert verdict
    assert verdict.reasons == ()


@given(precision=st.sampled_from(list(Precision)), drop=st.floats(0, 0.05))
def test_the_limit_itself_still_passes(precision: Precision, drop: float) -> None:
    verdict = Limits.default(precision).check(but(ssim_drop=drop))
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
    verdict = Limits.default(Precision.INT8).check(but(**change))
    assert not verdict
    assert len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]


def test_optional_limits_hold_when_set() -> None:
    gate = Limits(
        {"max_ssim_drop": 1.0, "max_ssim_drop_worst": 0.0005, "max_perceptual": 0.0001, "min_identity": 0.9999}
    )
    assert gate.check(GOOD).reasons == (
        "the SSIM drop of the worst face is 0.001, at most 0.0005 is allowed",
        "the SqueezeNet distance is 0.001, at most 0.0001 is allowed",
        "the mean identity cosine is 0.999, at least 0.9999 is allowed",
    )


def test_a_limit_without_a_measurement_fails() -> None:
    gate = Limits({"max_ssim_drop": 1.0, "max_perceptual": 0.1, "min_identity": 0.9})
    reasons = gate.check(but(perceptual=None, identity_cosine=None)).reasons
    assert [reason.split(",")[0] for reason in reasons] == [
        "the SqueezeNet distance was not measured",
        "the mean identity cosine was not measured",
    ]


def test_every_limit_counts_as_a_budget() -> None:
    figures = {"ssim_drop": 0.002, "ssim_drop_worst": 0.02, "perceptual": 0.1, "identity_cosine": 0.95}
    budget = Limits({"max_ssim_drop": 0.004})
    assert budget.load(figures) == pytest.approx(0.5)
    assert budget.changed({"max_ssim_drop_worst": 0.01}).load(figures) == pytest.approx(2)
    assert budget.changed({"max_perceptual": 0.4}).load(figures) == pytest.approx(0.5)
    assert budget.changed({"min_identity": 0.98}).load(figures) == pytest.approx(2.5)
    assert budget.changed({"min_identity": 0.9}).load({"ssim_drop": 0.0}) == float("inf")  # not measured is not kept
    assert Limits({"max_ssim_drop": 0.0}).load({"ssim_drop": 0.0}) == 0


def test_keys_and_manifests_of_engines_that_exist_stay_as_they_are() -> None:
    """The text is part of the keys that say whether an engine is up to date."""
    usual = Limits.default(Precision.INT8)
    assert repr(usual) == (
        "Gate(max_ssim_drop=0.01, max_ssim_drop_worst=None, max_perceptual=None, min_identity=None, "
        "spread_range=(0.5, 2.0))"
    )
    assert repr(usual.changed({"max_perceptual": 0.1, "min_identity": 0.9, "max_ssim_drop": 0.02})) == (
        "Gate(max_ssim_drop=0.02, max_ssim_drop_worst=None, max_perceptual=0.1, min_identity=0.9, "
        "spread_range=(0.5, 2.0))"
    )
    assert json.dumps(usual.as_dict()) == (
        '{"max_ssim_drop": 0.01, "max_ssim_drop_worst": null, "max_perceptual": null, "min_identity": null, '
        '"spread_range": [0.5, 2.0]}'
    )
    assert repr(usual.changed({"max_later": 1.0})).endswith("spread_range=(0.5, 2.0), max_later=1.0)")
