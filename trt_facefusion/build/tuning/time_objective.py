"""Least time, as the plan search makes it: its groups are some of those that were timed, or several as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trt_facefusion.build.objective import TIME
from trt_facefusion.build.tuning.timed_plans import TimedPlans
from trt_facefusion.quantization.precision.groups import Group, GroupSet
from trt_facefusion.quantization.precision.objectives import Objective

RESOLUTION = 0.005
"""Neither a prediction nor a timer tells times apart that differ by less."""


class TimeObjective(Objective):
    """Milliseconds of the engine of a plan of ``groups``: of a compiled one, or an estimate from those."""

    name, resolution = TIME, RESOLUTION

    def __init__(self, plans: TimedPlans, groups: Sequence[Group]) -> None:
        self.plans = plans
        timed = {name: index for index, group in enumerate(plans.groups) for name in group.nodes}
        self._timed = [frozenset(timed[name] for name in group.nodes) for group in groups]

    def translate(self, in_int8: Iterable[int]) -> GroupSet:
        """The groups that were timed of the search's groups."""
        return frozenset[int]().union(*(self._timed[index] for index in in_int8))

    def cost(self, in_int8: GroupSet) -> float:
        """Milliseconds; no time is enough for a plan that the backend refuses."""
        timed = self.translate(in_int8)
        return math.inf if timed in self.plans.refused else self.plans.model.predict(timed)

    def price(self, in_int8: GroupSet, raised: Iterable[int]) -> float:
        """Milliseconds that raising costs in this plan; nothing is quite free."""
        step, model = frozenset(raised), self.plans.model
        floor = model.least_gain * len(self.translate(step))
        return max(model.predict(self.translate(in_int8 - step)) - model.predict(self.translate(in_int8)), floor)

    def is_sure(self, in_int8: GroupSet) -> bool:
        """Whether the plan was compiled, or refused."""
        return self.plans.is_sure(self.translate(in_int8))

    def make_sure(self, in_int8: GroupSet, *, for_front: bool = False) -> bool:
        """Compile the plan; False where no more may be."""
        return self.plans.compile(self.translate(in_int8), for_front=for_front)

    def describe(self, in_int8: GroupSet) -> Mapping[str, Any]:
        """The predicted time, and what the engine was seen to do."""
        engine = self.plans.times.get(self.translate(in_int8))
        seen = {} if engine is None else {"moved_bytes": engine.moved_bytes, "launches": engine.launches}
        return {f"{self.plans.timer.how}_ms": self.cost(in_int8), **seen}

    def explain(self, group: int, plan: GroupSet) -> str:
        """What a group takes in INT8 and in FP16."""
        timed = self.translate(plan)
        return "; ".join(self.plans.compare(index, timed) for index in sorted(self._timed[group]))
