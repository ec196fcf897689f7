"""How long the engines of plans take: a bounded number of them is compiled, the others are estimated from those."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from trt_facefusion.build.effort import AUTO, limit_builds
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.plan_timer import EngineTime, PlanTimer
from trt_facefusion.build.tuning.time_cache import TimeCache
from trt_facefusion.engine.timing.summary import describe_loss
from trt_facefusion.errors import BuildError, KernelsUnknownError
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.quantization.precision.fastest import find_fastest
from trt_facefusion.quantization.precision.groups import GroupSet, find_neighbours, group_candidates
from trt_facefusion.quantization.precision.time_model import GroupTime, TimeModel
from trt_facefusion.types import Precision

_FOR_FASTEST, _FOR_FRONT = 0.6, 0.85
"""Shares of the engines that may be compiled until the fastest plan is known, and until the front is; what is left then
is for repairs."""
_HOPED_FOR = 0.5
"""What a layer takes in INT8, of its time in FP16, where no engine says more: a hope that compiling then corrects."""


class TimedPlans:
    """Times of all plans that keep some INT8 nodes of ``widest``.

    A plan is here a set of ``groups``, all candidates in groups. ``times`` are those that were compiled in this
    search, ``refused`` those that the backend does not compile; ``most`` is how many of both there may be. Everything
    that was compiled is kept beside the calibration, and a search that is made again asks for the same plans in the
    same order.

    Raises:
        KernelsUnknownError: the backend does not say which kernels an engine has.
        BuildError: it refuses even the plan without INT8.
    """

    def __init__(self, inputs: BuildInputs, timer: PlanTimer, widest: Plan) -> None:
        self.inputs, self.timer, self.widest = inputs, timer, widest
        self.groups = group_candidates(inputs.view, widest.names(Precision.INT8), operands=False)
        self.times: dict[GroupSet, EngineTime] = {}
        self.refused: set[GroupSet] = set()
        self._cache = TimeCache.load(inputs, self._compute_key())
        self._known: dict[GroupSet, EngineTime | None] = dict.fromkeys(self._cache.refused)
        self._known |= self._cache.times
        self.seconds = self._cache.seconds
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
    def int8(self) -> EngineTime | None:
        """With all candidates in INT8; None where the backend refuses that."""
        return self.times.get(self._every)

    def find_slower(self) -> dict[str, str]:
        """Layers that the fastest plan, whatever its pictures, has not in INT8: name -> reason."""
        builds = int(self.most * _FOR_FASTEST) - self._builds
        try:
            fastest = find_fastest(self.model, self._time, max(builds, 0))
        finally:
            self._save()
        return {
            name: f"no faster in INT8: {self.compare(group, fastest)}"
            for group in sorted(self._every - fastest)
            for name in self.groups[group].nodes
        }

    def compile(self, in_int8: GroupSet, *, for_front: bool = False) -> bool:
        """Make sure of the time of a plan; False where no more engines may be compiled (``for_front``: fewer)."""
        if not self.is_sure(in_int8):
            if self._builds >= self.most * (_FOR_FRONT if for_front else 1):
                return False
            try:
                time_ms = self._time(in_int8)
            finally:
                self._save()
            if time_ms is None:
                self.model.refuse(in_int8)
            else:
                self.model.learn(in_int8, time_ms)
        return True

    def is_sure(self, in_int8: GroupSet) -> bool:
        """Whether a plan was compiled, or refused."""
        return in_int8 in self.times or in_int8 in self.refused

    @property
    def _builds(self) -> int:
        return len(self.times) + len(self.refused)

    def compare(self, group: int, plan: GroupSet) -> str:
        """What a group takes in INT8 beside the rest of ``plan``, and in FP16, in words."""
        fp16_ms = sum(self.fp16.layers.get(node, 0.0) for node in self.groups[group].nodes)
        added_ms = self.model.predict(plan | {group}) - self.model.predict(plan - {group})
        return f"{self.timer.how} {1e3 * max(fp16_ms + added_ms, 0):.1f} us against {1e3 * fp16_ms:.1f} us in FP16"

    def explain_loss(self) -> str:
        """Why INT8 does not pay, where it does not."""
        widest = max(self.times, key=len)
        int8, fp16, how = self.times[widest], self.fp16, self.timer.how
        refused = f" ({len(self.refused)} more were refused)" if self.refused else ""
        compared = f"{fp16.total_ms:.4g} ms in FP16, and no plan of {len(self.times)} compiled ones{refused} is faster"
        if not widest:
            return f"INT8 does not pay on {self.timer.gpu_title}: {how} {compared}"
        layers = "all layers that can be" if widest == self._every else f"{len(widest)} of {len(self.groups)} groups in"
        moved, launches = (int8.moved_bytes, fp16.moved_bytes), (int8.launches, fp16.launches)
        why = describe_loss(moved, launches, int8.int8_kernels, int8.int8_writing_fp32)
        took = f"{how} {int8.total_ms:.4g} ms with {layers} INT8"
        return f"INT8 does not pay on {self.timer.gpu_title}: {took}, {compared}. Why: {why}"

    def describe(self) -> dict[str, Any]:
        """For `search.json`."""
        best = min(self.times.values(), key=lambda engine: engine.total_ms)
        return {
            "what": "times are predicted by a model" if self.timer.how == "predicted" else "times are measured",
            "gpu": self.timer.gpu_title,
            "fp16_ms": self.fp16.total_ms,
            "all_int8_ms": None if self.int8 is None else self.int8.total_ms,
            "fastest_ms": best.total_ms,
            "builds": self._builds,
            "refused": len(self.refused),
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
                self._time(plan)
            if not self.most:
                each_s = self.seconds / len(self._known)
                self.most = limit_builds(self.inputs.level, each_s, self._minutes)
                self.inputs.reporter.note(
                    f"plan search by {self.timer.how} time on {self.timer.gpu_title}: at most {self.most} engines are "
                    f"compiled, {each_s:.1f} s each: {self.most * each_s:.0f} s at most"
                )
        finally:
            self._save()

    def _make_model(self) -> TimeModel:
        def charge(engine: EngineTime, nodes: Sequence[str]) -> float:
            return sum(engine.layers.get(node, 0.0) for node in nodes)

        int8 = self.int8
        fp16_times = [charge(self.fp16, group.nodes) for group in self.groups]
        int8_times = [charge(int8, g.nodes) for g in self.groups] if int8 else [_HOPED_FOR * ms for ms in fp16_times]
        groups = [GroupTime(*times) for times in zip(fp16_times, int8_times, strict=True)]
        model = TimeModel(groups, find_neighbours(self.inputs.view, self.groups), self.fp16.total_ms)
        if int8 is None:
            model.refuse(self._every)
        else:
            model.learn(self._every, int8.total_ms)
        return model

    def _time(self, in_int8: GroupSet) -> float | None:
        """Milliseconds of a plan, which is compiled if it was not yet; None where the backend refuses it."""
        if in_int8 not in self._known:
            self.inputs.reporter.progress("compile plans", self._builds, self.most)
            started = time.perf_counter()
            self._known[in_int8] = self._compile(in_int8)
            self.seconds += time.perf_counter() - started
        engine = self._known[in_int8]
        if engine is None:
            self.refused.add(in_int8)
            return None
        self.times[in_int8] = engine
        return engine.total_ms

    def _compile(self, in_int8: GroupSet) -> EngineTime | None:
        """Have a plan compiled; what is refused is told, and passed over. A plan without INT8 is none to pass over."""
        raised = [name for index in self._every - in_int8 for name in self.groups[index].nodes]
        plan = self.widest.raised(dict.fromkeys(raised, "not timed in INT8 now"))
        try:
            return self.timer.time(plan)
        except BuildError as error:
            if not in_int8 or (isinstance(error, KernelsUnknownError) and in_int8 == self._every):
                raise
            layers = f"{len(plan.names(Precision.INT8))} layers in INT8"
            self.inputs.reporter.note(f"plan search: a plan with {layers} is passed over: {error.message}")
            return None

    def _save(self) -> None:
        most = {**self._cache.most, self._effort: self.most} if self.most else self._cache.most
        self._cache.save(self._known, self.seconds, most)
