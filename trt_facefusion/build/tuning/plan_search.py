"""The plan search of one model: which layers may be INT8, measured on calibration faces, and what is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.plan_evaluator import PlanEvaluator
from trt_facefusion.build.tuning.search_cache import SearchCache
from trt_facefusion.build.tuning.search_space import SearchSpace
from trt_facefusion.build.tuning.timed_plans import TimedPlans
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.gate import Limits
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.quantization.precision.objectives import Objective
from trt_facefusion.quantization.precision.search import Figures, MeasuredPlan, SearchResult, search
from trt_facefusion.quantization.precision.search_record import describe_search
from trt_facefusion.types import Precision

TARGETS = (0.003, 0.005, 0.01)
"""Mean SSIM drops to aim at where no limit was asked for: the strictest that keeps ``MOST`` of what INT8 can spare."""
MOST, MOST_TIME = 0.9, 0.8
"""Of MACs or bytes, and of time: a little time is not worth a picture that is worse by half."""
MARGIN = 0.9
"""Share of the budget that may be spent on the measuring faces: others cost a little more."""

_TRIES = 4
"""Times that the plan to choose may turn out to cost more than was estimated."""

Excluded = Mapping[str, str]
"""Layers that are no candidates: name -> reason."""


class PlanSearch:
    """Searches among the plans of ``space`` by what ``evaluator`` measures.

    Everything is measured once and kept beside the calibration. ``objective`` prices plans, by ``times`` where these
    were compiled; ``limit_named`` says
    whether the user named the SSIM limit; ``excluded`` are layers that were no candidates, with reasons. ``budget`` are
    the limits that the plan keeps on the measuring faces, which may be stricter than ``limits``; ``in_int8`` are the
    groups that it leaves in INT8. Both are set by the first call that needs the search.
    """

    def __init__(
        self,
        inputs: BuildInputs,
        space: SearchSpace,
        evaluator: PlanEvaluator,
        limits: Limits,
        objective: Objective,
        *,
        limit_named: bool,
        excluded: Excluded,
        times: TimedPlans | None = None,
    ) -> None:
        self.inputs, self.space, self.evaluator, self.limits = inputs, space, evaluator, limits
        self.objective, self.limit_named, self.excluded = objective, limit_named, excluded
        self.times, self.budget = times, limits
        self.in_int8: GroupSet = frozenset()
        self._searched: SearchResult | None = None

    def run(self) -> SearchResult:
        """Measure what is not measured yet, and set ``budget`` and ``in_int8``; later calls give the same result."""
        if self._searched is None and not self.space.groups:
            exact = {frozenset[int](): MeasuredPlan(frozenset(), 0.0, registry.list_exact_figures())}
            self._searched = SearchResult((), self.space.total_macs, self.objective, exact)
        if self._searched is None:
            cache = SearchCache.load(self.inputs, "int8", self.evaluator.compute_key())
            self.evaluator.measured.update(cache.figures)
            self.evaluator.passes, self.evaluator.seconds = cache.passes, cache.seconds
            self._announce(cache)
            try:
                self._searched = self._search()
            finally:
                # Also what was measured before Ctrl-C.
                cache.save(self.evaluator.measured, self.evaluator.passes, self.evaluator.seconds)
                self.evaluator.close()
        return self._searched

    def _search(self) -> SearchResult:
        """Search for the target that the user named; else for each, until most of INT8's gain is kept."""
        space, exact, cost = self.space, registry.list_exact_figures(), self.objective.cost
        limit = self.budget["max_ssim_drop"]
        targets = [limit] if self.limit_named else [target for target in TARGETS if target <= limit]
        nothing = cost(frozenset())
        share = MOST if self.times is None else MOST_TIME
        most = share * (nothing - cost(frozenset(range(len(space.groups)))))
        for target in targets:
            self.budget = self.limits.changed({"max_ssim_drop": target})
            load = self.budget.load
            searched = search(space.groups, space.total_macs, self._measure, load, exact, space.effort, self.objective)
            best = searched.settle(load, MARGIN, _TRIES)
            if nothing - cost(best.groups) >= most:
                break
        self.in_int8 = best.groups
        self._make_front_sure(searched, best)
        return searched

    def _make_front_sure(self, searched: SearchResult, chosen: MeasuredPlan) -> None:
        """Find out what the plans of the front cost that is only estimated, those first that are like the chosen."""
        front = searched.front(estimated=True)
        for point in sorted(front, key=lambda point: abs(point.ssim_drop - chosen.ssim_drop)):
            if not self.objective.make_sure(point.groups, for_front=True):
                return

    def _measure(self, plans: Sequence[GroupSet]) -> list[Figures]:
        figures, most = self.evaluator(plans), self.space.effort.plans
        self.inputs.reporter.progress("search", min(len(self.evaluator.measured), most), most)
        return figures

    def _announce(self, cache: SearchCache) -> None:
        effort, note = self.space.effort, self.inputs.reporter.note
        layers = len(self.space.widest.names(Precision.INT8))
        what = f"plan search: {layers} layers in {len(self.space.groups)} groups"
        if self.evaluator.measured:
            note(f"{what}, {len(self.evaluator.measured)} plans were measured before ({cache.path})")
            return
        seconds = self.evaluator.time_plan() * effort.plans
        note(
            f"{what}; at most {effort.plans} plans on {effort.faces} faces, {effort.plans * effort.faces} inferences: "
            f"{seconds:.0f} s at most"
        )

    def make_plan(self) -> Plan:
        """The plan that the search chose, with reasons; runs the search."""
        searched = self.run()
        if not self.in_int8:
            self.inputs.reporter.note(f"plan search: {self.explain_shortfall()}")
        return self._assign(searched, self.in_int8)

    def explain_shortfall(self) -> str:
        """Why nothing is left in INT8, where that is so; runs the search."""
        if not self.space.groups:
            return "no layer can run in INT8" if self.times is None or self.pays else self.times.explain_loss()
        in_int8 = (point for point in self.run().points.values() if point.groups)
        least = min(in_int8, key=lambda point: self.budget.load(point.figures))
        if self.budget.load(least.figures) <= MARGIN:
            return "no plan that fits into the budget is faster than FP16"
        drop, allowed = least.ssim_drop, self.budget["max_ssim_drop"]
        parts = [f"the SSIM drop is {drop:.4g}, at most {allowed:.4g} is allowed"]
        for figure, limit, most in self.budget.set_limits():
            if limit.name != "max_ssim_drop":
                parts.append(f"the {figure.label} {least.figures[figure.key]:.4g} ({limit.bound} {most:.4g})")
        return f"not one layer fits into the budget in INT8: with the cheapest, {', '.join(parts)}"

    @property
    def pays(self) -> bool:
        """Whether some plan with INT8 is faster than FP16; True where nothing was timed."""
        return self.times is None or not self.times.groups or bool(self.space.groups)

    def _assign(self, searched: SearchResult, in_int8: GroupSet) -> Plan:
        decisions: dict[str, tuple[Precision, str]] = {}
        for index, (group, cost) in enumerate(zip(searched.groups, searched.costs, strict=True)):
            precision = Precision.INT8 if index in in_int8 else Precision.FP16
            parts = [] if cost.alone is None else [f"alone in INT8 it costs {cost.alone:.3%} SSIM"]
            parts += [] if cost.raised is None else [f"raised from all-INT8 it wins back {cost.raised:.3%}"]
            parts = parts or ["not measured on its own"]
            parts += [spared] if (spared := self.objective.explain(index, in_int8)) else []
            together = f" (with {len(group.nodes) - 1} more: {group.why})" if len(group.nodes) > 1 else ""
            reason = f"searched: {', '.join(parts)}{together}"
            decisions |= dict.fromkeys(group.nodes, (precision, reason))
        return self.space.widest.assigned(decisions)

    def find_stricter(self, verified: Accuracy, current: Plan) -> Plan | None:
        """The next plan of the front after ``current`` failed its verification; None where nothing is left in INT8.

        The verification faces say by how much the measuring faces were too kind; the front is read with that factor.
        """
        searched, load_of = self.run(), self.limits.load
        int8 = set(current.names(Precision.INT8))
        now = frozenset(i for i, group in enumerate(self.space.groups) if int8.issuperset(group.nodes))
        measured = load_of(self.evaluator([now])[0] if now else registry.list_exact_figures())
        load = load_of(verified.figures)
        most = measured / 2  # for a picture that is broken, so that what failed is no limit of the budget
        if load > 1:
            most = min(0.97 / load, 0.999) * measured
        best = searched.settle(load_of, most, _TRIES)
        if not best.groups or best.groups == now:
            return None
        self.in_int8 = best.groups
        return self._assign(searched, best.groups)

    def _describe_plan(self, in_int8: GroupSet) -> dict[str, Any]:
        """What a point of the front says beside its figures."""
        return {**self.objective.describe(in_int8), "weights_bytes": round(self.space.sizes.cost(in_int8))}

    def as_dict(self) -> dict[str, Any]:
        """The search for ``search.json``; runs the search."""
        searched = self.run()
        budget = {name: limit for name, limit in self.budget.on_figures().items() if limit is not None}
        names = {figure.key: limit.short_name for figure, limit in registry.iterate_limits()}
        described = describe_search(searched, self.in_int8, budget, names, self._describe_plan)
        for row, noise in zip(described["groups"], self.space.noise, strict=True):
            row["noise"] = noise / max(row["macs"], 1)
        return {
            **described,
            "faces": self.space.effort.faces,
            "metrics": self.evaluator.metric_names,
            "effort": self.inputs.cost.record(),
            "passes": self.evaluator.passes,
            "seconds": round(self.evaluator.seconds, 2),
            "excluded": dict(self.excluded),
            **({} if self.times is None else {"times": self.times.describe()}),
        }
