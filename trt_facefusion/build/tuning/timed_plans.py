"""How long the engines of plans take: a bounded number of them is compiled, the others are estimated from those."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from trt_facefusion.build.effort import AUTO
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.plan_timer import EngineTime, PlanTimer
from trt_facefusion.build.tuning.time_cache import TimeCache
from trt_facefusion.engine.timing.summary import describe_loss
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.quantization.precision.fastest import find_fastest
from trt_facefusion.quantization.precision.groups import GroupSet, find_neighbours, group_candidates
from trt_facefusion.quantization.precision.time_model import GroupTime, TimeModel
from trt_facefusion.types import Precision

_FEWEST = 4
_FOR_FASTEST, _FOR_FRONT = 0.6, 0.85
"""Shares of the engines that may be compiled until the fastest plan is known, and until the front is; what is left then
is for repairs."""
_SHARE_OF_TIME = 0.3
"""Of a build's minutes compiling candidates may take this much."""


class TimedPlans:
    """Times of all plans that keep some INT8 nodes of ``widest``.

    A plan is here a set of ``groups``, all candidates in groups. ``times`` are those that were compiled in this
    search; ``most`` is how many may be. Everything that was compiled is kept beside the calibration, and a search that
    is made again asks for the same plans in the same order.
    """

    def __init__(self, inputs: BuildInputs, timer: PlanTimer, widest: Plan) -> None:
        self.inputs, self.timer, self.widest = inputs, timer, widest
        self.groups = group_candidates(inputs.view, widest.names(Precision.INT8), operands=False)
        self.times: dict[GroupSet, EngineTime] = {}
        self._cache = TimeCache.load(inputs, self._compute_key())
        self._known, self.seconds = dict(self._cache.times), self._cache.seconds
        # A level that was named is kept to at any price.
        self._minutes = inputs.settings.minutes if inputs.settings.effort == AUTO else 0.0
        self._effort = f"{inputs.level.name}, {self._minutes:g} minutes"
        self.most = self._cache.most.get(self._effort, 0)
        self._nothing, self._every = frozenset[int](), frozenset(range(len(self.groups)))
        self._open()
        self.model = self._make_model()

    @property
    def fp16(self) -> EngineTime:
        """Without INT8."""
        return self.times[self._nothing]

    @property
    def int8(self) -> EngineTime:
        """With all candidates in INT8."""
        return self.times[self._every]

    def find_slower(self) -> dict[str, str]:
        """Layers that the fastest plan, whatever its pictures, has not in INT8: name -> reason."""
        builds = int(self.most * _FOR_FASTEST) - len(self.times)
        try:
            fastest = find_fastest(self.model, lambda plan: self._compile(plan).total_ms, max(builds, 0))
        finally:
            self._save()
        return {
            name: f"no faster in INT8: {self.compare(group, fastest)}"
            for group in sorted(self._every - fastest)
            for name in self.groups[group].nodes
        }

    def compile(self, in_int8: GroupSet, *, for_front: bool = False) -> bool:
        """Make sure of the time of a plan; False where no more engines may be compiled (``for_front``: fewer)."""
        if in_int8 not in self.times:
            if len(self.times) >= self.most * (_FOR_FRONT if for_front else 1):
                return False
            try:
                self.model.learn(in_int8, self._compile(in_int8).total_ms)
            finally:
                self._save()
        return True

    def compare(self, group: int, plan: GroupSet) -> str:
        """What a group takes in INT8 beside the rest of ``plan``, and in FP16, in words."""
        fp16_ms = sum(self.fp16.layers.get(node, 0.0) for node in self.groups[group].nodes)
        added_ms = self.model.predict(plan | {group}) - self.model.predict(plan - {group})
        return f"{self.timer.how} {1e3 * max(fp16_ms + added_ms, 0):.1f} us against {1e3 * fp16_ms:.1f} us in FP16"

    def explain_loss(self) -> str:
        """Why INT8 does not pay, where it does not."""
        int8, fp16, how = self.int8, self.fp16, self.timer.how
        moved, launches = (int8.moved_bytes, fp16.moved_bytes), (int8.launches, fp16.launches)
        why = describe_loss(moved, launches, int8.int8_kernels, int8.int8_writing_fp32)
        return (
            f"INT8 does not pay on {self.timer.gpu_title}: {how} {int8.total_ms:.4g} ms with all layers that can be "
            f"INT8, {fp16.total_ms:.4g} ms in FP16, and no plan of {len(self.times)} compiled ones is faster. Why: "
            f"{why}"
        )

    def describe(self) -> dict[str, Any]:
        """For `search.json`."""
        best = min(self.times.values(), key=lambda engine: engine.total_ms)
        return {
            "what": "times are predicted by a model" if self.timer.how == "predicted" else "times are measured",
            "gpu": self.timer.gpu_title,
            "fp16_ms": self.fp16.total_ms,
            "all_int8_ms": self.int8.total_ms,
            "fastest_ms": best.total_ms,
            "builds": len(self.times),
            "builds_at_most": self.most,
            "seconds": round(self.seconds, 2),
        }

    def _compute_key(self) -> str:
        groups = [group.nodes for group in self.groups]
        return hashlib.sha256(
            f"{self.timer.compute_key(self.widest)}; {self.timer.how}; {self.timer.described}; {groups}".encode()
        ).hexdigest()

    def _open(self) -> None:
        """Compile both ends, and say how many engines more, and about how long that takes."""
        try:
            for plan in dict.fromkeys((self._nothing, self._every)):
                self._compile(plan)
            if not self.most:
                self.most = self._limit_builds(self.seconds / len(self._known))
        finally:
            self._save()

    def _limit_builds(self, each_s: float) -> int:
        """As many as the level of effort allows, or half of that, and so on, until the time is enough."""
        most, minutes = self.inputs.level.search_builds, self._minutes
        while minutes and most > _FEWEST and most * each_s > 60 * minutes * _SHARE_OF_TIME:
            most //= 2
        most = max(most, _FEWEST)
        self.inputs.reporter.note(
            f"plan search by {self.timer.how} time on {self.timer.gpu_title}: at most {most} engines are compiled, "
            f"{each_s:.1f} s each: {most * each_s:.0f} s at most"
        )
        return most

    def _make_model(self) -> TimeModel:
        def charge(engine: EngineTime, nodes: Sequence[str]) -> float:
            return sum(engine.layers.get(node, 0.0) for node in nodes)

        groups = [GroupTime(charge(self.fp16, g.nodes), charge(self.int8, g.nodes)) for g in self.groups]
        model = TimeModel(groups, find_neighbours(self.inputs.view, self.groups), self.fp16.total_ms)
        model.learn(self._every, self.int8.total_ms)
        return model

    def _compile(self, in_int8: GroupSet) -> EngineTime:
        if in_int8 not in self._known:
            self.inputs.reporter.progress("compile plans", len(self.times), self.most)
            started = time.perf_counter()
            raised = [name for index in self._every - in_int8 for name in self.groups[index].nodes]
            self._known[in_int8] = self.timer.time(self.widest.raised(dict.fromkeys(raised, "not timed in INT8 now")))
            self.seconds += time.perf_counter() - started
        self.times[in_int8] = self._known[in_int8]
        return self.times[in_int8]

    def _save(self) -> None:
        most = {**self._cache.most, self._effort: self.most} if self.most else self._cache.most
        self._cache.save(self._known, self.seconds, most)
