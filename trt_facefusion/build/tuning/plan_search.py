"""The plan search of one model: which layers may be INT8, measured on calibration faces, and what is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.plan_evaluator import PlanEvaluator
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.build.tuning.search_cache import SearchCache
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.gate import Limits
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.noise import compute_sqnr_db
from trt_facefusion.quantization.correction.channel_affine import name_equalised
from trt_facefusion.quantization.correction.grid import find_output_axis, quantise_weight
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.switch import add_switches
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.quantization.precision.groups import Group, group_candidates, merge_quiet
from trt_facefusion.quantization.precision.search import Effort, Figures, GroupSet, SearchResult, as_dict, search
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision

TARGETS = (0.003, 0.005, 0.01)
"""Mean SSIM drops to aim at where no limit was asked for: the strictest that leaves ``MOST`` of the work in INT8."""
MOST = 0.9
MARGIN = 0.9
"""Share of the budget that may be spent on the measuring faces: others cost a little more."""

Excluded = Mapping[str, str]
"""Layers that are no candidates: name -> reason."""


def candidates(plan: Plan, view: GraphView, ranges: Mapping[str, float]) -> list[str]:
    """Layers that the search decides on: the rules' role protections are priors, their numerical ones stay."""
    return [
        node.name
        for node in plan.nodes
        if node.quantisable and node.precision is not Precision.FP32 and view.nodes[node.name].input[0] in ranges
    ]


def opened(plan: Plan, names: Sequence[str]) -> Plan:
    """``plan`` with all of ``names`` in INT8."""
    return plan.assigned(dict.fromkeys(names, (Precision.INT8, "candidate of the plan search")))


class PlanSearch:
    """Searches among plans that keep some INT8 nodes of ``widest`` and raise the others to FP16.

    Everything is measured once and kept beside the calibration. ``asked`` says whether the user named the SSIM limit;
    ``excluded`` are layers that were no candidates, with reasons; ``corrections`` those of ``widest``.
    """

    def __init__(
        self,
        inputs: BuildInputs,
        ranges: Ranges,
        widest: Plan,
        limits: Limits,
        *,
        asked: bool,
        excluded: Excluded,
        corrections: Corrections,
    ) -> None:
        self.inputs, self.ranges, self.widest = inputs, ranges, widest
        self.limits, self.asked, self.excluded, self.corrections = limits, asked, excluded, corrections
        self.budget = limits
        """The limits that the chosen plan keeps on the measuring faces: they may be stricter."""
        self.chosen: GroupSet = frozenset()
        self._of_weights: dict[str, float] = {}
        """Node -> noise of its weights, which takes a pass over them."""

    @cached_property
    def _effort(self) -> Effort:
        groups = group_candidates(self.inputs.view, self.widest.names(Precision.INT8))
        faces = len(self.inputs.faces.calibration)
        return self.inputs.level.search(len(groups), self._total_macs, faces, self.inputs.settings.search_faces)

    @property
    def _total_macs(self) -> int:
        return sum(node.macs for node in self.widest.nodes)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What is decided on, in graph order."""
        groups = group_candidates(self.inputs.view, self.widest.names(Precision.INT8))
        return merge_quiet(groups, [self._noise(group) for group in groups], self._effort.groups)

    def _noise(self, group: Group) -> float:
        """Quantisation noise of a group's own, weighed by MACs: the power of noise over that of the signal."""
        view, ranges = self.inputs.view, self.ranges
        total = 0.0
        for name in group.nodes:
            node = view.nodes[name]
            tensor = node.input[0]
            ranged = name_equalised(tensor) if tensor in ranges.affines else ranges.aliases.get(tensor, tensor)
            histogram = ranges.histograms.get(ranged)
            noise = self._of_weights.get(name)
            if noise is None:
                noise = self._of_weights[name] = _weight_noise(view, name)
            if histogram is not None:
                noise += float(10 ** (-compute_sqnr_db(histogram, ranges.table[ranged]) / 10))
            total += noise * max(self.widest.by_name()[name].macs, 1)
        return total

    @cached_property
    def evaluator(self) -> PlanEvaluator:
        """Measures the plans, with what an earlier search of the same measured."""
        inputs = self.inputs
        faces = inputs.faces.calibration
        metrics = registry.open_limited(
            self.limits.named, Tools(inputs.network.embedder, inputs.settings.preset.template)
        )
        indices = spread(len(faces), self._effort.faces)
        return PlanEvaluator(self._switched, len(self.groups), inputs.network.renderer(faces), indices, metrics)

    def _switched(self) -> onnx.ModelProto:
        view, ranges = self.inputs.view, self.ranges
        lowered = lower(view, self.widest, ranges.table, Precision.FP32, ranges.affines, self.corrections)
        return add_switches(view, lowered, [group.nodes for group in self.groups])

    @cached_property
    def _cache(self) -> SearchCache:
        return SearchCache.beside(self.inputs, "int8", self.evaluator.key)

    @cached_property
    def result(self) -> SearchResult:
        """All that was measured for the budget; sets ``budget`` and ``chosen``, too."""
        cache, evaluator = self._cache, self.evaluator
        evaluator.measured.update(cache.figures)
        evaluator.passes, evaluator.seconds = cache.passes, cache.seconds
        self._announce()
        asked, exact = self.budget["max_ssim_drop"], registry.list_exact_figures()
        targets = [asked] if self.asked else [target for target in TARGETS if target <= asked]
        most = MOST * sum(group.macs for group in self.groups) / max(self._total_macs, 1)
        try:
            for target in targets:
                self.budget = self.limits.changed({"max_ssim_drop": target})
                load = self.budget.load
                result = search(self.groups, self._total_macs, self._measure, load, exact, self._effort)
                best = result.best(load, MARGIN)
                if best.share >= most:
                    break
        finally:
            # Also what was measured before Ctrl-C.
            cache.save(evaluator.measured, evaluator.passes, evaluator.seconds)
            evaluator.close()
        self.chosen = best.groups
        return result

    def _measure(self, plans: Sequence[GroupSet]) -> list[Figures]:
        figures = self.evaluator(plans)
        self.inputs.reporter.progress(
            "search", min(len(self.evaluator.measured), self._effort.plans), self._effort.plans
        )
        return figures

    def _announce(self) -> None:
        layers, faces = len(self.widest.names(Precision.INT8)), self._effort.faces
        what = f"plan search: {layers} layers in {len(self.groups)} groups"
        if self.evaluator.measured:
            self.inputs.reporter.note(
                f"{what}, {len(self.evaluator.measured)} plans were measured before ({self._cache.path})"
            )
            return
        seconds = self.evaluator.seconds_a_plan() * self._effort.plans
        self.inputs.reporter.note(
            f"{what}; at most {self._effort.plans} plans on {faces} faces, {self._effort.plans * faces} inferences: "
            f"{seconds:.0f} s at most"
        )

    def plan(self) -> Plan:
        """The chosen plan, with reasons."""
        result = self.result
        if not self.chosen:
            self.inputs.reporter.note(f"plan search: {self.shortfall()}")
        return self._plan_of(result, self.chosen)

    def shortfall(self) -> str:
        """Why nothing is left in INT8, where that is so."""
        if not self.groups:
            return "no layer can run in INT8"
        in_int8 = (point for point in self.result.points.values() if point.groups)
        least = min(in_int8, key=lambda point: self.budget.load(point.figures))
        drop, allowed = least.ssim_drop, self.budget["max_ssim_drop"]
        parts = [f"the SSIM drop is {drop:.4g}, at most {allowed:.4g} is allowed"]
        for figure, limit, value in self.budget.set_limits():
            if limit.name != "max_ssim_drop":
                parts.append(f"the {figure.label} {least.figures[figure.key]:.4g} ({limit.bound} {value:.4g})")
        return f"not one layer fits into the budget in INT8: with the cheapest, {', '.join(parts)}"

    def _plan_of(self, result: SearchResult, in_int8: GroupSet) -> Plan:
        decisions: dict[str, tuple[Precision, str]] = {}
        for index, (group, cost) in enumerate(zip(result.groups, result.costs, strict=True)):
            precision = Precision.INT8 if index in in_int8 else Precision.FP16
            parts = [] if cost.alone is None else [f"alone in INT8 it costs {cost.alone:.3%} SSIM"]
            parts += [] if cost.raised is None else [f"raised from all-INT8 it wins back {cost.raised:.3%}"]
            together = f" (with {len(group.nodes) - 1} more: {group.why})" if len(group.nodes) > 1 else ""
            reason = f"searched: {', '.join(parts) or 'not measured on its own'}{together}"
            decisions |= dict.fromkeys(group.nodes, (precision, reason))
        return self.widest.assigned(decisions)

    def stricter(self, verified: Accuracy, current: Plan) -> Plan | None:
        """The next plan of the front after ``current`` failed its verification; None where nothing is left in INT8.

        The verification faces say by how much the measuring faces were too kind; the front is read with that factor.
        """
        result, load_of = self.result, self.limits.load
        int8 = set(current.names(Precision.INT8))
        now = frozenset(i for i, group in enumerate(self.groups) if int8.issuperset(group.nodes))
        measured = load_of(self._figures(now))
        load = load_of(verified.figures)
        most = measured / 2  # for a picture that is broken, so that what failed is no limit of the budget
        if load > 1:
            most = min(0.97 / load, 0.999) * measured
        best = result.best(load_of, most)
        if not best.groups or best.groups == now:
            return None
        self.chosen = best.groups
        return self._plan_of(result, best.groups)

    def _figures(self, in_int8: GroupSet) -> Figures:
        return self.evaluator([in_int8])[0] if in_int8 else registry.list_exact_figures()

    def as_dict(self) -> dict[str, Any]:
        """The search for ``search.json``."""
        result = self.result
        noise = [self._noise(group) for group in self.groups]
        budget = {name: value for name, value in self.budget.on_figures().items() if value is not None}
        names = {figure.key: limit.short_name for figure, limit in registry.iterate_limits()}
        described = as_dict(result, self.chosen, budget, names)
        for row, value in zip(described["groups"], noise, strict=True):
            row["noise"] = value / max(row["macs"], 1)
        return {
            **described,
            "faces": self._effort.faces,
            "metrics": self.evaluator.metric_names,
            "effort": self.inputs.cost.record(),
            "passes": self.evaluator.passes,
            "seconds": round(self.evaluator.seconds, 2),
            "excluded": dict(self.excluded),
        }


def _weight_noise(view: GraphView, name: str) -> float:
    """Power of a layer's weight quantisation noise over that of its weights."""
    node = view.nodes[name]
    weight = view.constant(node.input[1]).astype(np.float32)
    axis = find_output_axis(node)
    quantised, scale = quantise_weight(weight, axis, 1)
    shape = [1] * weight.ndim
    shape[axis] = -1
    error = quantised * scale.reshape(shape)
    np.subtract(weight, error, out=error)  # in place: weights may be large
    wrong = np.square(error, out=error).sum()
    return float(wrong / max(np.square(weight, out=error).sum(), 1e-30))
