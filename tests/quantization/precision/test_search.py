"""The plan search keeps its budget, finds what is best where that is known, and measures what it says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.quantization.precision.groups import Group, GroupSet, merge_quiet
from trt_facefusion.quantization.precision.objectives import SizeObjective
from trt_facefusion.quantization.precision.search import (
    Effort,
    Figures,
    Load,
    effort,
    search,
)
from trt_facefusion.quantization.precision.search_record import describe_search

COSTS = st.lists(st.tuples(st.floats(0, 0.01), st.integers(1, 10**6)), min_size=1, max_size=9)
EXACT = {"ssim_drop": 0.0, "ssim_drop_worst": 0.0}
ALL = Effort(plans=10_000, faces=8, groups=99)


def within(max_ssim_drop: float) -> Load:
    """A budget of SSIM alone."""
    return lambda figures: (figures["ssim_drop"] or 0.0) / max_ssim_drop


class Picture:
    """A network whose layers cost what they are said to, and a little more or less together."""

    def __init__(self, costs: Sequence[tuple[float, int]], seed: int = 0) -> None:
        self.groups = tuple(Group((f"n{i}",), macs, 1) for i, (_, macs) in enumerate(costs))
        self.costs = [cost for cost, _ in costs]
        self.total = sum(macs for _, macs in costs) * 2  # half of the network can never be INT8
        self.together = np.random.default_rng(seed).uniform(-0.3, 0.3, (len(costs), len(costs)))
        self.measured: list[GroupSet] = []

    def figures(self, choice: GroupSet) -> Figures:
        drop = sum(self.costs[g] for g in choice)
        for a, b in itertools.combinations(sorted(choice), 2):
            drop += self.together[a, b] * min(self.costs[a], self.costs[b]) / len(self.costs)
        return {"ssim_drop": max(drop, 0.0), "ssim_drop_worst": 2 * max(drop, 0.0)}

    def __call__(self, choices: Sequence[GroupSet]) -> list[Figures]:
        self.measured += choices
        return [self.figures(choice) for choice in choices]


@given(COSTS, st.floats(1e-4, 0.05), st.integers(0, 99))
def test_the_chosen_plan_keeps_the_budget_and_the_front_falls(
    costs: list[tuple[float, int]], limit: float, seed: int
) -> None:
    picture, budget = Picture(costs, seed), within(limit)
    found = search(picture.groups, picture.total, picture, budget, EXACT, ALL)
    best = found.best(budget)
    assert best.ssim_drop <= limit and best.share <= 0.5 + 1e-9
    front = found.front()
    assert all(a.share > b.share and a.ssim_drop > b.ssim_drop for a, b in itertools.pairwise(front))
    assert all(point.figures == picture.figures(point.groups) for point in front if point.groups)
    every = frozenset(range(len(costs)))
    if picture.figures(every)["ssim_drop"] <= limit:
        assert best.groups == every or best.share == pytest.approx(0.5)


@given(COSTS, st.floats(1e-4, 0.05), st.integers(0, 99))
def test_the_same_measurements_give_the_same_plan_and_none_is_made_twice(
    costs: list[tuple[float, int]], limit: float, seed: int
) -> None:
    first, second = Picture(costs, seed), Picture(costs, seed)
    one = search(first.groups, first.total, first, within(limit), EXACT, ALL)
    two = search(second.groups, second.total, second, within(limit), EXACT, ALL)
    assert list(one.points.items()) == list(two.points.items()) and first.measured == second.measured
    assert len(set(first.measured)) == len(first.measured)


@given(COSTS, st.floats(1e-3, 0.03))
def test_what_is_found_is_near_the_best_of_all_plans(costs: list[tuple[float, int]], limit: float) -> None:
    picture, budget = Picture(costs), within(limit)
    best = search(picture.groups, picture.total, picture, budget, EXACT, ALL).best(budget)
    every = range(len(costs))
    plans = (frozenset(p) for size in range(len(costs) + 1) for p in itertools.combinations(every, size))
    fitting = [p for p in plans if picture.figures(p)["ssim_drop"] <= limit]
    ideal = max(sum(picture.groups[g].macs for g in p) for p in fitting) / picture.total
    assert best.share >= ideal - 0.5 * max(g.macs for g in picture.groups) / picture.total - 1e-9


@given(COSTS, st.integers(2, 30))
def test_a_search_measures_no_more_than_it_was_allowed(costs: list[tuple[float, int]], plans: int) -> None:
    picture, budget = Picture(costs), within(0.004)
    found = search(picture.groups, picture.total, picture, budget, EXACT, Effort(plans, 8, 99, alone=False))
    assert len(picture.measured) <= plans
    assert found.best(budget).ssim_drop <= 0.004


@given(st.integers(1, 2000), st.integers(10**6, 10**12), st.integers(2, 64))
def test_the_effort_is_bounded_by_work_alone(groups: int, macs: int, faces: int) -> None:
    found = effort(groups, macs, faces, work=20e12)
    assert 2 <= found.faces <= faces and found.groups <= groups
    assert found.plans * found.faces * macs <= max(20e12, 8 * min(4, faces) * macs)


def test_faces_that_were_asked_for_are_taken_at_any_price() -> None:
    assert effort(500, 10**15, 64, work=float("inf")).faces == 64


def test_two_that_hide_each_other_are_found_out_by_measuring_them_together() -> None:
    """Layer 0 costs nothing alone, but dearly beside layer 1: sums of single costs would keep both."""
    groups = tuple(Group((f"n{i}",), macs, 1) for i, macs in enumerate([50, 40, 10]))

    def measure(choices: Sequence[GroupSet]) -> list[Figures]:
        return [{"ssim_drop": 0.01 if {0, 1} <= choice else 0.001 * len(choice)} for choice in choices]

    budget = within(0.005)
    best = search(groups, 100, measure, budget, EXACT, ALL).best(budget)
    assert best.groups == {0, 2}


def test_of_costs_that_cannot_be_told_apart_the_more_exact_plan_is_chosen() -> None:
    picture, limit = Picture([(0.001, 1000), (0.0009, 3)]), within(0.003)
    found = search(picture.groups, picture.total, picture, limit, EXACT, ALL)
    assert found.best(limit).groups == {0, 1}
    found.objective.resolution = 0.01
    assert found.best(limit).groups == {0}
    found.objective.resolution = 2.0
    assert found.best(limit).groups == {1}, "and not the plan without INT8"


def test_the_quietest_groups_are_merged_where_there_are_too_many() -> None:
    groups = tuple(Group((f"n{i}",), 10 * i, i) for i in range(6))
    merged = merge_quiet(groups, [5, 1, 4, 2, 3, 0], 4)
    assert merged[0].nodes == ("n1", "n3", "n5") and merged[0].macs == 90
    assert [group.nodes for group in merged[1:]] == [("n0",), ("n2",), ("n4",)]
    assert merge_quiet(groups, [0] * 6, 6) == groups


@pytest.mark.parametrize(
    ("apart", "at_most", "expected"),
    [
        ({5}, 4, ["n1 n3 n4", "n0", "n2", "n5"]),
        ({1, 5}, 4, ["n2 n3 n4", "n0", "n1", "n5"]),
        ({0, 1, 2, 5}, 4, ["n3 n4", "n1 n5", "n0", "n2"]),
        ({0, 1, 2, 5}, 2, ["n3 n4", "n0 n1 n2 n5"]),
        ({0, 1, 2, 5}, 1, ["n0 n1 n2 n3 n4 n5"]),
        (set(range(6)), 3, ["n1 n3 n4 n5", "n0", "n2"]),
    ],
)
def test_protected_layers_are_not_merged_with_others(apart: set[int], at_most: int, expected: list[str]) -> None:
    groups = tuple(Group((f"n{i}",), 10 * i, i) for i in range(6))
    merged = merge_quiet(groups, [5, 1, 4, 2, 3, 0], at_most, apart)
    assert [" ".join(group.nodes) for group in merged] == expected


def test_the_record_names_the_chosen_plan_and_what_was_raised() -> None:
    picture, budget = Picture([(0.004, 10), (0.001, 30)]), within(0.002)
    found = search(picture.groups, picture.total, picture, budget, EXACT, ALL)
    record = describe_search(found, found.best(budget).groups, {"max_ssim_drop": 0.002})
    (chosen,) = [point for point in record["points"] if point["chosen"]]
    assert chosen["raised"] == ["n0"] and chosen["int8_macs_share"] == pytest.approx(30 / 80)
    assert record["groups"][0]["alone"] == pytest.approx(0.004)


@given(st.lists(st.tuples(st.floats(0, 0.01), st.integers(1, 10**6)), min_size=1, max_size=8), st.floats(1e-3, 0.03))
def test_by_size_the_weights_decide_and_macs_do_not(costs: list[tuple[float, int]], limit: float) -> None:
    picture, budget = Picture(costs), within(limit)
    by_weights = [Group(group.nodes, 10**6 - group.macs, group.macs) for group in picture.groups]
    objective = SizeObjective(by_weights, fixed_bytes=100)
    found = search(by_weights, picture.total, picture, budget, EXACT, ALL, objective)
    plain = search(picture.groups, picture.total, picture, budget, EXACT, ALL).best(budget)
    best, every = found.best(budget), frozenset(range(len(costs)))
    assert objective.cost(every) == 100 + sum(group.weights for group in by_weights)
    assert objective.cost(frozenset()) - objective.cost(every) == objective.cost(every) - 100
    largest = max(group.weights for group in by_weights)
    assert best.ssim_drop <= limit
    assert abs(objective.cost(best.groups) - objective.cost(plain.groups)) <= largest
