"""Which threshold rule, for the table and for single tensors: what INT8 pictures of some calibration faces say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.effort import FULL, Level
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.scale_session import Trials
from trt_facefusion.build.tuning.threshold_descent import Candidate, Descended, descend, distinct
from trt_facefusion.quantization.calibration.cache import Calibration
from trt_facefusion.quantization.calibration.noise import sqnr_db
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.calibration.threshold_choice import ThresholdChoice
from trt_facefusion.quantization.calibration.thresholds import parse_rule
from trt_facefusion.quantization.correction.channel_affine import Affine, Affines, equalised_name
from trt_facefusion.quantization.precision import Plan, Seen, plan_by_rules
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision

AUTO = "auto"
AUTO_RULES = FULL.rules
TENSOR_RULES = (*AUTO_RULES, "percentile:99.97", "percentile:99.9")
"""Single tensors may clip more than a whole table should."""

VALIDATION_FACES = FULL.validation_faces
"""Calibration faces on which `auto` compares the rules: the verification faces must not choose anything."""

_VERSION = 1
"""Rises when a choice would come out otherwise: those in caches are then made anew."""


def with_aliases(table: CalibrationTable, aliases: Mapping[str, str]) -> CalibrationTable:
    """The table with a range for every alias, too: that of the tensor whose values it holds."""
    return CalibrationTable({**table, **{name: table[source] for name, source in aliases.items()}}, table.header)


def affines_of(calibration: Calibration) -> Affines:
    """The scales and shifts that a calibration was made with; none where its choice is against them."""
    if calibration.choice is not None and not calibration.choice.equalised:
        return {}
    return {
        name: Affine(
            np.array(values, np.int8),
            np.array(calibration.offsets.get(name, (0.0,) * len(values)), np.float32),
        )
        for name, values in calibration.exponents.items()
    }


def choose(
    inputs: BuildInputs,
    calibration: Calibration,
    aliases: Mapping[str, str],
    amax: Mapping[str, float],
    seen: Mapping[str, Seen],
) -> ThresholdChoice:
    """The rule, whether to equalise, and the tensors that fare better with another rule.

    A choice that the cache holds is taken as it is, if it was asked for in the same way. A rule that the user named
    stays the rule of every tensor.
    """
    plan = plan_by_rules(inputs.view, amax, calibration.model, seen)
    key = _key(inputs.settings.rule, inputs.settings.corrections, plan, inputs.level)
    if calibration.choice is not None and calibration.choice.key == key:
        inputs.reporter.note(f"thresholds: {described(calibration.choice)}, as the cache says")
        return calibration.choice
    return _Chooser(inputs, calibration, aliases, plan, key).choose()


def described(choice: ThresholdChoice) -> str:
    """The choice in a few words."""
    own = f", {len(choice.tensors)} tensors by rules of their own" if choice.tensors else ""
    return f"{_label(choice.rule, choice.equalised)}{own}"


class _Chooser:
    """One choice: the validation slice, and what is measured on it."""

    def __init__(
        self, inputs: BuildInputs, calibration: Calibration, aliases: Mapping[str, str], plan: Plan, key: str
    ) -> None:
        self.inputs, self.calibration, self.aliases, self.plan, self.key = inputs, calibration, aliases, plan, key
        self.faces = spread(len(inputs.faces.calibration), inputs.level.validation_faces)
        self.wanted = inputs.paint_reference(self.faces)
        self.tried: dict[str, float] = {}

    def choose(self) -> ThresholdChoice:
        asked = self.inputs.settings.rule
        rules = self.inputs.level.rules if asked == AUTO else (asked,)
        first, *others = (True, False) if self.calibration.exponents else (False,)
        if self.inputs.settings.corrections != AUTO:
            others = []  # what was named is done
        with self._opened(first) as trials:
            rule = self._best(trials, rules, first, len(rules) + len(others))
            if not others:
                return self._settled(trials, rule, first)
        for other in others:  # one after the other: each session holds all weights
            with self._opened(other) as trials:
                self._best(trials, (rule,), other, len(rules) + len(others))
        equalised = min((first, *others), key=lambda equalised: self.tried[_label(rule, equalised)])
        with self._opened(equalised) as trials:
            return self._settled(trials, rule, equalised)

    def _settled(self, trials: Trials, rule: str, equalised: bool) -> ThresholdChoice:
        self._tell(_label(rule, equalised))
        if self.inputs.settings.rule != AUTO:
            return self._choice(trials, rule, equalised)
        return self._by_tensor(trials, rule, equalised)

    def _opened(self, equalised: bool) -> Trials:
        affines = affines_of(self.calibration.with_rule(AUTO_RULES[-1])) if equalised else {}
        table = self._table(AUTO_RULES[-1])
        return Trials(self.inputs, self.plan, table, affines, self.faces, self.wanted)

    def _table(self, rule: str) -> CalibrationTable:
        return with_aliases(self.calibration.with_rule(rule).table, self.aliases)

    def _best(self, trials: Trials, rules: Sequence[str], equalised: bool, total: int) -> str:
        """Measure whole tables; gives the rule of the best."""
        for rule in rules:
            self.tried[_label(rule, equalised)] = float(1 - trials.ssim(self._table(rule)).mean())
            self.inputs.reporter.progress("rules", len(self.tried), total)
        return min(rules, key=lambda rule: self.tried[_label(rule, equalised)])

    def _tell(self, label: str) -> None:
        shown = ", ".join(f"{name} {drop:.2%}" for name, drop in sorted(self.tried.items(), key=lambda item: item[1]))
        self.inputs.reporter.note(
            f"calibration {label}: smallest SSIM drop on {len(self.faces)} calibration faces ({shown})"
        )

    def _by_tensor(self, trials: Trials, rule: str, equalised: bool) -> ThresholdChoice:
        candidates = self._candidates(trials, rule, equalised)
        half = max(len(self.faces) // 2, 1)
        budget = self.inputs.level.trials(len(self.inputs.faces.calibration)) // half
        if not budget:
            return self._choice(trials, rule, equalised)
        needed = 1 + sum(len(candidate.others) + 2 for candidate in candidates)
        self.inputs.reporter.note(
            f"thresholds of {len(candidates)} tensors: at most {min(budget, needed)} trials of {half} faces"
        )

        def judge(table: Mapping[str, float], which: slice) -> NDArray[np.float64]:
            return trials.ssim(with_aliases(CalibrationTable(table), self.aliases), which)

        start = dict(self.calibration.with_rule(rule).table)
        found = descend(start, candidates, judge, min(budget, needed), self.inputs.reporter.progress)
        choice = self._choice(trials, rule, equalised, found)
        if found.tensors:
            drop = float(1 - judge(found.table, slice(None)).mean())
            choice = self._choice(trials, rule, equalised, found, drop)
            before = self.tried[_label(rule, equalised)]
            self.inputs.reporter.note(
                f"{len(found.tensors)} tensors fare better by another rule: SSIM drop {before:.3%} -> {drop:.3%}"
            )
        return choice

    def _candidates(self, trials: Trials, rule: str, equalised: bool) -> list[Candidate]:
        """The tensors that are quantised, the noisiest first, with the thresholds of the other rules."""
        table = self.calibration.with_rule(rule).table
        found: list[tuple[float, Candidate]] = []
        for name in self._quantised(trials, equalised):
            if name in self.calibration.pinned:
                continue
            histogram = self.calibration.histograms[name]
            others = [(other, parse_rule(other)(histogram)) for other in TENSOR_RULES if other != rule]
            kept = distinct(table[name], others)
            if kept:
                found.append((sqnr_db(histogram, table[name]), Candidate(name, rule, kept)))
        return [candidate for _, candidate in sorted(found, key=lambda item: item[0])]

    def _quantised(self, trials: Trials, equalised: bool) -> tuple[str, ...]:
        """The tensors that INT8 nodes read, as the histograms call them."""
        exponents = self.calibration.exponents if equalised else {}
        names = (equalised_name(n) if n in exponents else self.aliases.get(n, n) for n in trials.activations)
        return tuple(dict.fromkeys(names))

    def _choice(
        self, trials: Trials, rule: str, equalised: bool, found: Descended | None = None, drop: float | None = None
    ) -> ThresholdChoice:
        return ThresholdChoice(
            asked=self.inputs.settings.rule,
            rule=rule,
            equalised=equalised,
            tried=self.tried,
            tensors=found.tensors if found is not None else {},
            faces=len(self.faces),
            trials=found.trials if found is not None else 0,
            ssim_drop=self.tried[_label(rule, equalised)] if drop is None else drop,
            quantised=self._quantised(trials, equalised),
            key=self.key,
        )


def _label(rule: str, equalised: bool) -> str:
    return f"{rule}, equalised" if equalised else rule


def _key(asked: str, corrections: str, plan: Plan, level: Level) -> str:
    rules = [level.rules, TENSOR_RULES]
    parts: list[object] = [_VERSION, asked, corrections == AUTO, rules, level.validation_faces]
    parts += [sorted(plan.names(Precision.INT8)), *([] if level is FULL else [level.trial_pictures])]
    return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()
