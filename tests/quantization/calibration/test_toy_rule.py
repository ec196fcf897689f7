"""A new threshold rule is a function and one line in the registry: then it can be named, is compared and explained."""

from __future__ import annotations

import pytest
from tiny import Settings

from trt_facefusion.build.effort import FULL, LEAST, REDUCED
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.tuning.ranges import Ranges, calibrate, choose_ranges
from trt_facefusion.cli.histograms import compute_thresholds
from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.calibration import thresholds
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.thresholds import (
    RuleKind,
    describe_rule_syntax,
    list_tensor_rules,
    parse_rule,
)


def amax_half(histogram: Histogram) -> float:
    """Half of the largest magnitude."""
    return max(histogram.amax / 2, thresholds.MIN_AMAX)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(thresholds.THRESHOLD_RULES, "half", RuleKind(amax_half, {"half": thresholds.REDUCED}))


def ranges_of(settings: Settings, **changes: object) -> Ranges:
    inputs = read_inputs(open_job(settings(hold_out=False, **changes)))
    return choose_ranges(inputs, calibrate(inputs))


def test_it_is_in_every_list_that_it_asked_for() -> None:
    assert parse_rule("half").name == "half"
    assert FULL.rules == ("entropy", "mse", "percentile:99.99", "percentile:99.999", "half", "max")
    assert REDUCED.rules == ("entropy", "percentile:99.99", "half", "max")
    assert LEAST.rules == ("percentile:99.99", "max")
    assert list_tensor_rules() == (*FULL.rules, "percentile:99.97", "percentile:99.9")
    assert describe_rule_syntax() == "auto, entropy, mse, half, max or percentile:VALUE."
    with pytest.raises(BadInputError) as error:
        parse_rule("hlaf")
    assert "use entropy, percentile, max, mse, half, or percentile:VALUE" in error.value.remedy


def test_a_build_may_name_it(settings: Settings) -> None:
    calibration = ranges_of(settings, rule="half").calibration
    assert calibration is not None and calibration.choice is not None and calibration.choice.rule == "half"
    free = [name for name in calibration.histograms if name not in calibration.pinned]
    assert all(calibration.table[name] == parse_rule("half")(calibration.histograms[name]) for name in free)
    assert "half" in compute_thresholds(calibration, free[0])


def test_auto_compares_it(settings: Settings) -> None:
    calibration = ranges_of(settings, rule="auto", effort="reduced").calibration
    assert calibration is not None
    choice = calibration.choice
    assert choice is not None and {label.partition(",")[0] for label in choice.tried} == set(REDUCED.rules)
