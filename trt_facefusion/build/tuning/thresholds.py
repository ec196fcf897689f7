"""Which threshold rule, for the table and for single tensors: what INT8 pictures of some calibration faces say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.build.effort import FULL
from trt_facefusion.build.forms import FOLDED, SHIFTED
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import open_calibration_evaluator
from trt_facefusion.build.tuning.channels import make_channels
from trt_facefusion.build.tuning.observations import add_aliases
from trt_facefusion.build.tuning.scale_session import ScaleSession
from trt_facefusion.build.tuning.threshold_descent import DescentResult, descend, rank_tensors
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.cache import Calibration
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.calibration.threshold_choice import ChannelForm, ThresholdChoice
from trt_facefusion.quantization.calibration.thresholds import list_compared_rules, list_tensor_rules
from trt_facefusion.quantization.correction.kinds import parse_corrections
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan, TensorMoments, plan_by_rules
from trt_facefusion.types import Precision

Price = Callable[[GraphView, onnx.ModelProto], float | None]
"""The time that an engine is expected to take of a lowered graph, and of the one that it was lowered from; None where
that cannot be told."""

AUTO = "auto"
VALIDATION_FACES = FULL.validation_faces
"""Calibration faces on which `auto` compares the rules: the verification faces must not choose anything."""

WORTH_SHIFTING = 5e-4
"""SSIM that shifts have to win where scales are folded: without them, nothing stands in front of quantisers."""
SSIM_OF_TIME = 1e-2
"""SSIM that a form may win by taking all of an engine's time once more; a percent of it is worth a hundredth of this.
INT8 as a whole saves some 30 percent for 3e-3, the limit that a build has by default."""

_VERSION = 2
"""Rises when a choice would come out otherwise: those in caches are then made anew."""


def choose_thresholds(
    inputs: BuildInputs,
    calibration: Calibration,
    aliases: Mapping[str, str],
    amax: Mapping[str, float],
    moments: Mapping[str, TensorMoments],
    price: Price | None = None,
) -> ThresholdChoice:
    """The rule, what channels go through, and the tensors that fare better with another rule.

    A choice that the cache holds is taken as it is, if it was asked for in the same way. A rule that the user named
    stays the rule of every tensor. What stands in front of quantisers is weighed by its ``price``.
    """
    plan = plan_by_rules(inputs.view, amax, calibration.model, moments, inputs.settings.preset.hints)
    key = _compute_key(inputs, plan, priced=price is not None)
    if calibration.choice is not None and calibration.choice.key == key:
        inputs.reporter.note(f"thresholds: {describe_choice(calibration.choice)}, as the cache says")
        return calibration.choice
    return _ThresholdChooser(inputs, calibration, aliases, plan, key, price).choose()


def describe_choice(choice: ThresholdChoice) -> str:
    """The choice in a few words."""
    own = f", {len(choice.tensors)} tensors by rules of their own" if choice.tensors else ""
    return f"{_label_table(choice.rule, choice.form)}{own}"


class _ThresholdChooser:
    """One choice: the validation slice, and what is measured on it."""

    def __init__(
        self,
        inputs: BuildInputs,
        calibration: Calibration,
        aliases: Mapping[str, str],
        plan: Plan,
        key: str,
        price: Price | None,
    ) -> None:
        self.price = price
        self.inputs, self.calibration, self.aliases, self.plan, self.key = inputs, calibration, aliases, plan, key
        self.evaluator = open_calibration_evaluator(inputs, inputs.level.validation_faces)
        self.tried: dict[str, float] = {}

    def choose(self) -> ThresholdChoice:
        rule = self.inputs.settings.rule
        rules = self.inputs.level.rules if rule == AUTO else (rule,)
        first, *rest = list_forms(self.inputs, self.calibration)
        with self._open_session(first) as session:
            rule = self._compare_rules(session, rules, first, len(rules) + len(rest))
            if not rest:
                return self._settle(session, rule, first)
        for other in rest:  # one after the other: each session holds all weights
            with self._open_session(other) as session:
                self._compare_rules(session, (rule,), other, len(rules) + len(rest))
        forms = (first, *rest)
        drops = {form: self.tried[_label_table(rule, form)] for form in forms}
        free = self.inputs.capabilities.pads_with_zero_points
        form = choose_form(drops, self._predict_times(forms, rule), 0.0 if free else WORTH_SHIFTING)
        with self._open_session(form) as session:
            return self._settle(session, rule, form)

    def _predict_times(self, forms: Sequence[ChannelForm], rule: str) -> dict[ChannelForm, float]:
        """What engines of each form are expected to take; nothing where there is no price, or none of one of them."""
        if self.price is None or all(form.shifted for form in forms):
            return {}
        times = {}
        for form in forms:
            channels = make_channels(self.inputs.view, self.calibration, form)
            ranges = channels.place_ranges(self._make_table(rule))
            lowered = lower(channels.view, self.plan, ranges, affines=channels.affines)
            time_ms = self.price(channels.view, lowered)
            if time_ms is None:
                self.key = _compute_key(self.inputs, self.plan, priced=False)
                return {}
            times[form] = time_ms
        return times

    def _settle(self, session: ScaleSession, rule: str, form: ChannelForm) -> ThresholdChoice:
        self._tell(_label_table(rule, form))
        if self.inputs.settings.rule != AUTO:
            return self._record_choice(session, rule, form)
        return self._descend(session, rule, form)

    def _open_session(self, form: ChannelForm) -> ScaleSession:
        start = list_compared_rules()[-1]
        channels = make_channels(self.inputs.view, self.calibration, form)
        return ScaleSession(self.plan, self._make_table(start), channels, self.evaluator)

    def _make_table(self, rule: str) -> CalibrationTable:
        return add_aliases(self.calibration.with_rule(rule).table, self.aliases)

    def _compare_rules(self, session: ScaleSession, rules: Sequence[str], form: ChannelForm, total: int) -> str:
        """Measure whole tables; gives the rule of the best."""
        for rule in rules:
            self.tried[_label_table(rule, form)] = float(1 - session.measure_ssim(self._make_table(rule)).mean())
            self.inputs.reporter.progress("rules", len(self.tried), total)
        return min(rules, key=lambda rule: self.tried[_label_table(rule, form)])

    def _tell(self, label: str) -> None:
        shown = ", ".join(f"{name} {drop:.2%}" for name, drop in sorted(self.tried.items(), key=itemgetter(1)))
        self.inputs.reporter.note(
            f"calibration {label}: smallest SSIM drop on {len(self.evaluator.indices)} calibration faces ({shown})"
        )

    def _descend(self, session: ScaleSession, rule: str, form: ChannelForm) -> ThresholdChoice:
        candidates = rank_tensors(self.calibration, rule, self._list_quantised(session))
        half = max(len(self.evaluator.indices) // 2, 1)
        budget = self.inputs.level.count_trials(len(self.inputs.faces.calibration)) // half
        if not budget:
            return self._record_choice(session, rule, form)
        needed = 1 + sum(len(candidate.alternatives) + 2 for candidate in candidates)
        self.inputs.reporter.note(
            f"thresholds of {len(candidates)} tensors: at most {min(budget, needed)} trials of {half} faces"
        )

        def judge(table: Mapping[str, float], faces: slice) -> NDArray[np.float64]:
            return session.measure_ssim(add_aliases(CalibrationTable(table), self.aliases), faces)

        start = dict(self.calibration.with_rule(rule).table)
        descent = descend(start, candidates, judge, min(budget, needed), self.inputs.reporter.progress)
        choice = self._record_choice(session, rule, form, descent)
        if descent.tensors:
            drop = float(1 - judge(descent.table, slice(None)).mean())
            choice = self._record_choice(session, rule, form, descent, drop)
            before = self.tried[_label_table(rule, form)]
            self.inputs.reporter.note(
                f"{len(descent.tensors)} tensors fare better by another rule: SSIM drop {before:.3%} -> {drop:.3%}"
            )
        return choice

    def _list_quantised(self, session: ScaleSession) -> tuple[str, ...]:
        """The tensors that INT8 nodes read, as the histograms call them."""
        names = (session.channels.name_range(name) for name in session.activations)
        return tuple(dict.fromkeys(self.aliases.get(name, name) for name in names))

    def _record_choice(
        self,
        session: ScaleSession,
        rule: str,
        form: ChannelForm,
        descent: DescentResult | None = None,
        drop: float | None = None,
    ) -> ThresholdChoice:
        return ThresholdChoice(
            asked=self.inputs.settings.rule,
            rule=rule,
            equalised=form.scaled,
            tried=self.tried,
            tensors=descent.tensors if descent is not None else {},
            faces=len(self.evaluator.indices),
            trials=descent.trials if descent is not None else 0,
            ssim_drop=self.tried[_label_table(rule, form)] if drop is None else drop,
            quantised=self._list_quantised(session),
            key=self.key,
            folded=form.folded,
            shifted=form.shifted,
        )


def list_forms(inputs: BuildInputs, calibration: Calibration) -> list[ChannelForm]:
    """What channels may go through, what is likeliest first; one form where the user named it."""
    named = inputs.forms
    plain, full = ChannelForm(scaled=False), ChannelForm(folded=inputs.folds_scales)
    if not calibration.exponents:
        return [plain]
    if parse_corrections(inputs.settings.corrections) is not None:
        return [full]  # the calibration has counted what was named
    unshifted = [replace(full, shifted=False)] if calibration.offsets else []
    if SHIFTED in named:
        return [full] if named[SHIFTED] or not unshifted else unshifted
    unshifted = unshifted if inputs.folds_scales else []
    return [full, *unshifted] if FOLDED in named else [full, *unshifted, plain]


def choose_form(
    drops: Mapping[ChannelForm, float],
    times: Mapping[ChannelForm, float] | None = None,
    worth_shifting: float = WORTH_SHIFTING,
) -> ChannelForm:
    """The form with the smallest SSIM drop, where the time that it takes counts, too.

    ``times`` are what engines of each form take, in any unit: a percent more has to win `SSIM_OF_TIME` percent. Where
    they are not known, a shift has to win ``worth_shifting`` over a form without: nothing where zero points will stand
    for shifts.
    """
    can_do_without = any(not form.shifted for form in drops)

    def count_loss(form: ChannelForm) -> float:
        if times:
            return drops[form] + SSIM_OF_TIME * times[form] / min(times.values())
        return drops[form] + (worth_shifting if can_do_without and form.scaled and form.shifted else 0)

    return min(drops, key=count_loss)


def _label_table(rule: str, form: ChannelForm) -> str:
    return f"{rule}, {form.label}" if form.label else rule


def _compute_key(inputs: BuildInputs, plan: Plan, *, priced: bool) -> str:
    settings, level = inputs.settings, inputs.level
    rules = [level.rules, list_tensor_rules()]
    parts: list[object] = [_VERSION, settings.rule, settings.corrections == AUTO, rules, level.validation_faces]
    parts += [inputs.folds_scales, priced, sorted(plan.names(Precision.INT8))]
    parts += ["zero points"] if inputs.capabilities.pads_with_zero_points else []
    parts += [] if level is FULL else [level.trial_pictures]
    parts += [{form: on} for form, on in sorted(inputs.forms.items()) if form in {FOLDED, SHIFTED}]
    return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()
