"""The search for the plan that costs least inside an accuracy budget. Pure logic: measuring is the caller's.

Errors of layers hide and amplify one another, so no plan is judged by a sum of single costs: each point of the front is
a plan that was measured as a whole. Costs of single groups, measured both ways (alone in INT8; alone raised from
all-INT8), only say which plans are worth measuring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trt_facefusion.quantization.precision.groups import Group, GroupSet
from trt_facefusion.quantization.precision.objectives import MacsObjective, Objective

Figures = Mapping[str, float | None]
"""What a plan costs the picture, by the keys of figures: ``ssim_drop`` is always there. None: not measured."""

Load = Callable[[Figures], float]
"""The share of what is allowed that figures spend; above 1 a limit is broken."""

_NOISE = 0.005
"""Gains below this share of the whole cost of INT8 are not told from noise."""
_TRUST_ALONE = 0.3
_UNBOUNDED = 2**40
_LOOK_AHEAD = 3
"""Groups that are measured before each step of the path; the best of them is raised."""


@dataclass(frozen=True)
class MeasuredPlan:
    """One measured plan. ``share`` is that of all the network's MACs."""

    groups: GroupSet
    share: float
    figures: Figures

    @property
    def ssim_drop(self) -> float:
        """The mean SSIM drop, which the front is made of."""
        drop = self.figures["ssim_drop"]
        return math.inf if drop is None else drop


@dataclass(frozen=True)
class GroupCost:
    """Mean SSIM that one group costs: alone in INT8, and gained back when it alone is raised from all-INT8."""

    alone: float | None = None
    raised: float | None = None


PLANS_A_GROUP = 4
"""Measured plans for each group that a search may use: two to price it, the rest for the path and its corrections."""


@dataclass(frozen=True)
class Effort:
    """How much a search measures.

    ``plans``: most plans that it measures; ``faces``: on how many faces; ``groups``: most groups that it tells apart;
    ``alone``: whether single groups are also measured alone in INT8.
    """

    plans: int
    faces: int
    groups: int
    alone: bool = True


def effort(groups: int, macs: int, faces: int, work: float, fewest_faces: int = 4) -> Effort:
    """What can be measured within ``work`` MACs: all on ``faces`` faces, or on fewer, or fewer plans.

    It looks at no clock, so that a plan does not depend on the speed of a machine. ``macs`` are those of one face;
    infinite ``work`` means that ``faces`` are wanted at any price.
    """
    plans = PLANS_A_GROUP * groups + 8
    affordable = int(min(work / max(macs, 1), _UNBOUNDED))
    fewest = min(fewest_faces, faces)
    if affordable >= plans * fewest:
        return Effort(plans, min(faces, affordable // plans), groups)
    plans = max(affordable // fewest, 8)
    return Effort(plans, fewest, min(groups, max(plans * 2 // 3, 4)), alone=plans >= 3 * groups)


@dataclass
class SearchResult:
    """What a search measured: ``points`` are all plans, in the order of measuring.

    ``objective`` says what plans cost; it may learn, so nothing of it is kept here.
    """

    groups: tuple[Group, ...]
    total_macs: int
    objective: Objective
    points: dict[GroupSet, MeasuredPlan] = field(default_factory=dict)

    @property
    def costs(self) -> tuple[GroupCost, ...]:
        """What each group costs, where that was measured."""
        every = frozenset(range(len(self.groups)))

        def drop(in_int8: GroupSet) -> float | None:
            return self.points[in_int8].ssim_drop if in_int8 in self.points else None

        def cost(group: int) -> GroupCost:
            full, without = drop(every), drop(every - {group})
            gain = full - without if full is not None and without is not None else None
            return GroupCost(drop(frozenset({group})), gain)

        return tuple(cost(group) for group in range(len(self.groups)))

    def front(self, *, estimated: bool = False) -> tuple[MeasuredPlan, ...]:
        """The plans that no other beats in both, by rising cost: the drop falls with every step.

        Of those whose costs are sure, or with ``estimated`` of all.
        """
        cost, sure = self.objective.cost, self.objective.is_sure
        points = [p for p in self.points.values() if estimated or sure(p.groups)]
        ordered = sorted(points, key=lambda p: (cost(p.groups), p.ssim_drop, sorted(p.groups)))
        front: list[MeasuredPlan] = []
        for point in ordered:
            if not front or point.ssim_drop < front[-1].ssim_drop:
                front.append(point)
        return tuple(front)

    def best(self, load: Load, most: float = 1.0) -> MeasuredPlan:
        """The plan that costs least and spends at most ``most`` of what is allowed; of equals the more exact one.

        Costs within the objective's resolution are equal, but for the plan without INT8.
        """
        return self._find_best([p for p in self.points.values() if load(p.figures) <= most], load)

    def settle(self, load: Load, most: float = 1.0, tries: int = 1) -> MeasuredPlan:
        """`best`, with its cost made sure of: what then costs more gives way to the next, at most ``tries`` times."""
        objective = self.objective
        for _ in range(tries):
            best = self.best(load, most)
            if objective.is_sure(best.groups):
                return best
            if not objective.make_sure(best.groups):
                break
        fitting = [p for p in self.points.values() if load(p.figures) <= most and objective.is_sure(p.groups)]
        return self._find_best(fitting, load)

    def _find_best(self, fitting: Sequence[MeasuredPlan], load: Load) -> MeasuredPlan:
        cost, resolution = self.objective.cost, self.objective.resolution
        cheapest = max(fitting, key=lambda p: (-cost(p.groups), -load(p.figures), sorted(p.groups)))
        if not cheapest.groups or not resolution:
            return cheapest
        most = cost(cheapest.groups) * (1 + resolution)
        equals = [p for p in fitting if p.groups and cost(p.groups) <= most]
        return min(equals, key=lambda p: (load(p.figures), cost(p.groups), sorted(p.groups)))


Measure = Callable[[Sequence[GroupSet]], Sequence[Figures]]
"""Measures plans as a whole, all at once."""


class _Search:
    def __init__(self, searched: SearchResult, measure: Measure, load: Load, exact: Figures, effort: Effort) -> None:
        self.searched, self.cost = searched, searched.objective.cost
        self.measure, self.load, self.effort = measure, load, effort
        self.estimates: list[float] = []
        self._keep(frozenset(), exact)

    def _keep(self, in_int8: GroupSet, figures: Figures) -> None:
        share = sum(self.searched.groups[index].macs for index in in_int8) / max(self.searched.total_macs, 1)
        self.searched.points[in_int8] = MeasuredPlan(in_int8, share, figures)

    @property
    def left(self) -> int:
        """Plans that may still be measured; the figures of the FP32 one are given."""
        return self.effort.plans - (len(self.searched.points) - 1)

    def loads(self, plans: Sequence[GroupSet]) -> list[float | None]:
        """Loads of ``plans``; those that are new are measured while that is allowed, and None after that."""
        new = [c for c in dict.fromkeys(plans) if c not in self.searched.points][: max(self.left, 0)]
        if new:
            for in_int8, figures in zip(new, self.measure(new), strict=True):
                self._keep(in_int8, figures)
        points = self.searched.points
        return [self.load(points[c].figures) if c in points else None for c in plans]

    def run(self) -> SearchResult:
        every = frozenset(range(len(self.searched.groups)))
        full_load = self.loads([every])[0]
        if full_load is None or not every:
            return self.searched
        self.loads([every - {g} for g in sorted(every)])
        if self.effort.alone:
            self.loads([frozenset({g}) for g in sorted(every)])
        self.estimates = [self._estimate(every, g) for g in sorted(every)]
        self._give_back(self._raise_until_fit(every, full_load))
        return self.searched

    def _load_of(self, in_int8: GroupSet) -> float | None:
        point = self.searched.points.get(in_int8)
        return None if point is None else self.load(point.figures)

    def _estimate(self, every: GroupSet, group: int) -> float:
        """A group's load. Alone in INT8 it counts less: what the others hide or amplify is missing there."""
        full_load, without, alone = (self._load_of(c) for c in (every, every - {group}, frozenset({group})))
        gain = full_load - without if full_load is not None and without is not None else 0.0
        return max(gain, _TRUST_ALONE * alone if alone is not None and len(every) > 1 else 0.0)

    def _raise_until_fit(self, start: GroupSet, full_load: float) -> GroupSet | None:
        """Raise group by group; the first plan inside the budget. Gains are measured anew where it matters."""
        estimate = dict(enumerate(self.estimates))
        plan, load, first = start, full_load, start if full_load <= 1 else None
        while plan:
            ranked = sorted(plan, key=lambda g: (-self._rate_step(plan, {g}, estimate[g], full_load), g))
            steps = self._list_steps(ranked, first is None)
            new = self.loads([plan - step for step in steps])
            gains = {step: load - after for step, after in zip(steps, new, strict=True) if after is not None}
            if not gains:
                return first
            estimate |= {next(iter(step)): gain for step, gain in gains.items() if len(step) == 1}
            best = min(gains, key=lambda step: (-self._rate_step(plan, step, gains[step], full_load), sorted(step)))
            plan, load = plan - best, load - gains[best]
            if first is None and load <= 1:
                first = plan
        return first

    def _list_steps(self, ranked: Sequence[int], careful: bool) -> list[GroupSet]:
        """What may be raised next: one of several groups, the best one, or several at once where few plans are left."""
        if careful and self.left > 2 * len(ranked):
            return [frozenset({g}) for g in ranked[:_LOOK_AHEAD]]
        at_once = math.ceil(len(ranked) / max(self.left - 1, 1))
        return [frozenset(ranked[:at_once])]

    def _rate_step(self, plan: GroupSet, step: Iterable[int], gain: float, full_load: float) -> float:
        """Budget won back for what raising costs; gains within the noise count as a fraction of it."""
        floor = _NOISE * full_load
        counted = gain if gain > floor else max(gain, -floor) * 1e-3
        return counted / self.searched.objective.price(plan, step)

    def _give_back(self, first: GroupSet | None) -> None:
        """Give back to INT8 what turns out to fit, the dearest first; then try to swap a raised group for another."""
        if first is None:
            return
        every = frozenset(range(len(self.searched.groups)))
        plan, tried = first, set[int]()
        while rest := sorted(every - plan - tried, key=lambda g: (self.cost(plan | {g}), g)):
            if self.cost(plan | {rest[0]}) > self.cost(plan):
                break
            load = self.loads([plan | {rest[0]}])[0]
            tried.add(rest[0])
            if load is None:
                return
            if load <= 1:
                plan = plan | {rest[0]}
        costs = {swap: self.cost(swap) for back in every - plan for out in plan for swap in [(plan | {back}) - {out}]}
        # The cheapest first; a swap is only likely where what is raised instead was dear.
        cheaper = sorted((swap for swap in costs if costs[swap] < self.cost(plan)), key=lambda s: (costs[s], sorted(s)))
        self.loads([swap for swap in cheaper if self._is_likely(plan, swap)][: len(every)])

    def _is_likely(self, plan: GroupSet, swap: GroupSet) -> bool:
        load = self.load(self.searched.points[plan].figures)
        added = sum(self.estimates[g] for g in swap - plan)
        removed = sum(self.estimates[g] for g in plan - swap)
        return load + added - removed <= 1.1


def search(
    groups: Sequence[Group],
    total_macs: int,
    measure: Measure,
    load: Load,
    exact: Figures,
    effort: Effort,
    objective: Objective | None = None,
) -> SearchResult:
    """Measure the plans that may matter.

    ``total_macs`` are those of the whole network, so that shares speak of it; ``exact`` are the figures of the plan
    without INT8. ``objective`` says what plans cost; None: the MACs that are not in INT8. Equal measurements and equal
    costs give equal results.
    """
    searched = SearchResult(tuple(groups), total_macs, objective or MacsObjective(groups, total_macs))
    return _Search(searched, measure, load, exact, effort).run()
