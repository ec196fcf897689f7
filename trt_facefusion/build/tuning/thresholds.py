"""Which threshold rule, for the table and for single tensors: what INT8 pictures of some calibration faces say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.effort import FULL, Level
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import calibration_evaluator
from trt_facefusion.build.tuning.scale_session import ScaleSession
from trt_facefusion.build.tuning.threshold_descent import Candidate, DescentResult, descend, distinct
from trt_facefusion.quantization.calibration.cache import Calibration
from trt_facefusion.quantization.calibration.noise import compute_sqnr_db
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.calibration.threshold_choice import ThresholdChoice
from trt_facefusion.quantization.calibration.thresholds import list_compared_rules, list_tensor_rules, parse_rule
from trt_facefusion.quantization.correction.channel_affine import Affine, Affines, name_equalised
from trt_facefusion.quantization.precision import Plan, TensorMoments, plan_by_rules
from trt_facefusion.types import Precision

AUTO = "auto"
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
    seen: Mapping[str, TensorMoments],
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
        self.evaluator = calibration_evaluator(inputs, inputs.level.validation_faces)
        self.tried: dict[str, float] = {}

    def choose(self) -> ThresholdChoice:
        asked = self.inputs.settings.rule
        rules = self.inputs.level.rules if asked == AUTO else (asked,)
        first, *others = (True, False) if self.calibration.exponents else (False,)
        if self.inputs.settings.corrections != AUTO:
            others = []  # what was named is done
        with self._opened(first) as session:
            rule = self._best(session, rules, first, len(rules) + len(others))
            if not others:
                return self._settled(session, rule, first)
        for other in others:  # one after the other: each session holds all weights
            with self._opened(other) as session:
                self._best(session, (rule,), other, len(rules) + len(others))
        equalised = min((first, *others), key=lambda equalised: self.tried[_label(rule, equalised)])
        with self._opened(equalised) as session:
            return self._settled(session, rule, equalised)

    def _settled(self, session: ScaleSession, rule: str, equalised: bool) -> ThresholdChoice:
        self._tell(_label(rule, equalised))
        if self.inputs.settings.rule != AUTO:
            return self._choice(session, rule, equalised)
        return self._by_tensor(session, rule, equalised)

    def _opened(self, equalised: bool) -> ScaleSession:
        start = list_compared_rules()[-1]
        affines = affines_of(self.calibration.with_rule(start)) if equalised else {}
        table = self._table(start)
        return ScaleSession(self.inputs, self.plan, table, affines, self.evaluator)

    def _table(self, rule: str) -> CalibrationTable:
        return with_aliases(self.calibration.with_rule(rule).table, self.aliases)

    def _best(self, session: ScaleSession, rules: Sequence[str], equalised: bool, total: int) -> str:
        """Measure whole tables; gives the rule of the best."""
        for rule in rules:
            self.tried[_label(rule, equalised)] = float(1 - session.ssim(self._table(rule)).mean())
            self.inputs.reporter.progress("rules", len(self.tried), total)
        return min(rules, key=lambda rule: self.tried[_label(rule, equalised)])

    def _tell(self, label: str) -> None:
        shown = ", ".join(f"{name} {drop:.2%}" for name, drop in sorted(self.tried.items(), key=lambda item: item[1]))
        self.inputs.reporter.note(
            f"calibration {label}: smallest SSIM drop on {len(self.evaluator.indices)} calibration faces ({shown})"
        )

    def _by_tensor(self, session: ScaleSession, rule: str, equalised: bool) -> ThresholdChoice:
        candidates = self._candidates(session, rule, equalised)
        half = max(len(self.evaluator.indices) // 2, 1)
        budget = self.inputs.level.trials(len(self.inputs.faces.calibration)) // half
        if not budget:
            return self._choice(session, rule, equalised)
        needed = 1 + sum(len(candidate.others) + 2 for candidate in candidates)
        self.inputs.reporter.note(
            f"thresholds of {len(candidates)} tensors: at most {min(budget, needed)} trials of {half} faces"
        )

        def judge(table: Mapping[str, float], faces: slice) -> NDArray[np.float64]:
            return session.ssim(with_aliases(CalibrationTable(table), self.aliases), faces)

        start = dict(self.calibration.with_rule(rule).table)
        descent = descend(start, candidates, judge, min(budget, needed), self.inputs.reporter.progress)
        choice = self._choice(session, rule, equalised, descent)
        if descent.tensors:
            drop = float(1 - judge(descent.table, slice(None)).mean())
            choice = self._choice(session, rule, equalised, descent, drop)
            before = self.tried[_label(rule, equalised)]
            self.inputs.reporter.note(
                f"{len(descent.tensors)} tensors fare better by another rule: SSIM drop {before:.3%} -> {drop:.3%}"
            )
        return choice

    def _candidates(self, session: ScaleSession, rule: str, equalised: bool) -> list[Candidate]:
        """The tensors that are quantised, the noisiest first, with the thresholds of the other rules."""
        table = self.calibration.with_rule(rule).table
        by_noise: list[tuple[float, Candidate]] = []
        for name in self._quantised(session, equalised):
            if name in self.calibration.pinned:
                continue
            histogram = self.calibration.histograms[name]
            others = [(other, parse_rule(other)(histogram)) for other in list_tensor_rules() if other != rule]
            different = distinct(table[name], others)
            if different:
                by_noise.append((compute_sqnr_db(histogram, table[name]), Candidate(name, rule, different)))
        return [candidate for _, candidate in sorted(by_noise, key=lambda item: item[0])]

    def _quantised(self, session: ScaleSession, equalised: bool) -> tuple[str, ...]:
        """The tensors that INT8 nodes read, as the histograms call them."""
        exponents = self.calibration.exponents if equalised else {}
        names = (name_equalised(n) if n in exponents else self.aliases.get(n, n) for n in session.activations)
        return tuple(dict.fromkeys(names))

    def _choice(
        self,
        session: ScaleSession,
        rule: str,
        equalised: bool,
        descent: DescentResult | None = None,
        drop: float | None = None,
    ) -> ThresholdChoice:
        return ThresholdChoice(
            asked=self.inputs.settings.rule,
            rule=rule,
            equalised=equalised,
            tried=self.tried,
            tensors=descent.tensors if descent is not None else {},
            faces=len(self.evaluator.indices),
            trials=descent.trials if descent is not None else 0,
            ssim_drop=self.tried[_label(rule, equalised)] if drop is None else drop,
            quantised=self._quantised(session, equalised),
            key=self.key,
        )


def _label(rule: str, equalised: bool) -> str:
    return f"{rule}, equalised" if equalised else rule


def _key(asked: str, corrections: str, plan: Plan, level: Level) -> str:
    rules = [level.rules, list_tensor_rules()]
    parts: list[object] = [_VERSION, asked, corrections == AUTO, rules, level.validation_faces]
    parts += [sorted(plan.names(Precision.INT8)), *([] if level is FULL else [level.trial_pictures])]
    return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()
