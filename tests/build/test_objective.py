"""What the plan search makes least of is chosen by name, and changes the plan as it says."""

from __future__ import annotations

import pytest
from tiny import Settings

from trt_facefusion.build.job import open_job
from trt_facefusion.build.plan_only import make_plan
from trt_facefusion.errors import BadInputError

QUICK = {"planner": "auto", "corrections": "none", "max_calib": 12, "search_faces": 4}


def test_an_objective_that_does_not_exist_is_refused_before_anything_is_read(settings: Settings) -> None:
    with pytest.raises(BadInputError, match="there is no objective 'speed'") as error:
        open_job(settings(objective="speed"))
    assert "macs" in error.value.remedy and "size" in error.value.remedy


@pytest.mark.parametrize(
    ("objective", "field", "sign"), [("macs", "int8_macs_share", -1), ("size", "weights_bytes", 1)]
)
def test_the_front_rises_in_what_is_made_least_of(settings: Settings, objective: str, field: str, sign: int) -> None:
    search = make_plan(settings(**QUICK, objective=objective)).search
    assert search is not None and search["objective"] == objective
    costs = [sign * point[field] for point in search["points"]]
    assert costs == sorted(costs) and len(set(costs)) == len(costs) >= 3
    drops = [point["ssim_drop"] for point in search["points"]]
    assert drops == sorted(drops, reverse=True)


def test_weights_take_one_byte_in_int8_and_two_elsewhere(settings: Settings) -> None:
    found = make_plan(settings(**QUICK, objective="size"))
    assert found.search is not None
    points, groups = found.search["points"], found.search["groups"]
    without = next(point for point in points if point["int8"] == 0)
    for point in points:
        int8 = sum(group["weights"] for group in groups if not set(group["nodes"]) & set(point["raised"]))
        assert point["weights_bytes"] == without["weights_bytes"] - int8
