"""The rollout of one candidate: what is known of it, and what is decided. Values only; no file, thread or clock.

    running      a share of requests gets the candidate, and grows by the schedule
    rolled_back  nobody gets it any more; only a person changes that
    promoted     it is the baseline, and the one before stands behind it

`advance` is the whole of the automatic decisions, `decide` is what a person's word does. A rollout belongs to two
digests: a candidate or baseline that was built anew begins anew.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from trt_facefusion.serving.engines.budget import FaceComparison, RolloutBudget
from trt_facefusion.serving.engines.shares import Schedule, write_share

SCHEMA = 1
_LONGEST_HISTORY = 50


class Phase(str, enum.Enum):
    """How far a rollout is."""

    RUNNING = "running"
    ROLLED_BACK = "rolled_back"
    PROMOTED = "promoted"


@dataclass(frozen=True)
class RolloutPlan:
    """What was asked for: the first ``share`` of requests, how it grows, and what is allowed on the way."""

    share: float
    schedule: Schedule
    budget: RolloutBudget


@dataclass(frozen=True)
class RolloutDecision:
    """``what`` was decided, ``when`` (UTC, ISO 8601), and why."""

    when: str
    what: str
    reason: str


@dataclass(frozen=True)
class Rollout:
    """Everything that is known of a rollout; what its file holds.

    ``candidate`` and ``baseline`` are sha256 (hex) of the engines' files. ``step`` steps of the schedule were taken,
    the last at ``step_began`` (seconds since 1970), with ``step_comparisons`` since. ``faces`` counts those that the
    candidate was asked for; ``fault_marks`` are its values when faults happened, of those still in the window.
    ``revision`` grows with every time the file is written.
    """

    candidate: str
    baseline: str
    candidate_label: str
    baseline_label: str
    plan: RolloutPlan
    phase: str
    share: float
    step: int
    step_began: float
    step_comparisons: int
    comparisons: int
    faces: int
    faults: int
    fault_marks: tuple[int, ...]
    window: tuple[FaceComparison, ...]
    history: tuple[RolloutDecision, ...]
    revision: int
    schema: int = SCHEMA

    @property
    def key(self) -> tuple[str, str]:
        """What it belongs to."""
        return self.candidate, self.baseline

    @property
    def reason(self) -> str:
        """Why it is as it is."""
        return self.history[-1].reason if self.history else ""


@dataclass(frozen=True)
class RolloutObservations:
    """What was seen of a candidate since the last time."""

    comparisons: tuple[FaceComparison, ...] = ()
    faces: int = 0
    faults: int = 0

    def __add__(self, other: RolloutObservations) -> RolloutObservations:
        return RolloutObservations(
            self.comparisons + other.comparisons, self.faces + other.faces, self.faults + other.faults
        )

    def keep_last(self, comparisons: int) -> RolloutObservations:
        """These, with so many of the comparisons at most."""
        return replace(self, comparisons=self.comparisons[-comparisons:])

    def __bool__(self) -> bool:
        return bool(self.comparisons or self.faces or self.faults)


def begin(key: tuple[str, str], labels: tuple[str, str], plan: RolloutPlan, now: float) -> Rollout:
    """A rollout of the candidate and baseline ``key`` (digests), called ``labels``, of which nothing is known yet."""
    fresh = Rollout(*key, *labels, plan, Phase.RUNNING.value, plan.share, 0, now, 0, 0, 0, 0, (), (), (), 0)
    return _note(fresh, "begun", f"nothing is known of it yet; {write_share(plan.share)} of requests see it", now)


def resume(rollout: Rollout, plan: RolloutPlan, now: float) -> Rollout:
    """``rollout`` under ``plan``: a decision stands; one that is running goes on unless its shares were changed."""
    before, changed = rollout.plan, replace(rollout, plan=plan)
    if rollout.phase != Phase.RUNNING.value or (before.share, before.schedule) == (plan.share, plan.schedule):
        return changed
    restarted = replace(changed, share=plan.share, step=0, step_began=now, step_comparisons=0)
    return _note(restarted, "begun", f"the shares were changed; {write_share(plan.share)} of requests see it", now)


def advance(rollout: Rollout, seen: RolloutObservations, now: float) -> Rollout:
    """``rollout`` with what was ``seen``, and what follows from it: nothing, the next share, or the way back."""
    rollout = _count(rollout, seen)
    if rollout.phase != Phase.RUNNING.value:
        return rollout
    breach = rollout.plan.budget.find_breach(rollout.window, len(rollout.fault_marks))
    if breach is not None:
        return decide(rollout, Phase.ROLLED_BACK, breach, now)
    return _take_step(rollout, now) if _is_step_due(rollout, now) else rollout


def decide(rollout: Rollout, phase: Phase, reason: str, now: float) -> Rollout:
    """``rollout`` rolled back or promoted, and why."""
    share = {Phase.ROLLED_BACK: 0.0, Phase.PROMOTED: 1.0}[phase]
    return _note(replace(rollout, phase=phase.value, share=share), phase.value, reason, now)


def _count(rollout: Rollout, seen: RolloutObservations) -> Rollout:
    if not seen:
        return rollout
    budget = rollout.plan.budget
    gross = sum(budget.is_gross(comparison) for comparison in seen.comparisons)
    faces, faults = rollout.faces + seen.faces, seen.faults + gross
    marks = (*rollout.fault_marks, *[faces] * faults)
    window: Sequence[FaceComparison] = (*rollout.window, *seen.comparisons)
    return replace(
        rollout,
        comparisons=rollout.comparisons + len(seen.comparisons),
        step_comparisons=rollout.step_comparisons + len(seen.comparisons),
        faces=faces,
        faults=rollout.faults + faults,
        fault_marks=tuple(mark for mark in marks if mark > faces - budget.window)[-budget.window :],
        window=tuple(window[-budget.window :]),
    )


def _is_step_due(rollout: Rollout, now: float) -> bool:
    """Whether the next share is reached; the window that nothing speaks against must be full enough to say so."""
    schedule, budget = rollout.plan.schedule, rollout.plan.budget
    enough = min(budget.least_to_promote, budget.window)
    if rollout.step >= len(schedule.steps) or min(len(rollout.window), rollout.step_comparisons) < enough:
        return False
    if schedule.comparisons:
        return rollout.step_comparisons >= schedule.comparisons
    return now - rollout.step_began >= schedule.seconds


def _take_step(rollout: Rollout, now: float) -> Rollout:
    share = rollout.plan.schedule.steps[rollout.step]
    reason = f"{rollout.step_comparisons} comparisons at {write_share(rollout.share)} of requests kept to the budget"
    stepped = replace(rollout, share=share, step=rollout.step + 1, step_began=now, step_comparisons=0)
    if share >= 1:
        return decide(stepped, Phase.PROMOTED, reason, now)
    return _note(stepped, f"{write_share(share)} of requests", reason, now)


def _note(rollout: Rollout, what: str, reason: str, now: float) -> Rollout:
    when = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds")
    history = (*rollout.history, RolloutDecision(when, what, reason))
    return replace(rollout, history=history[-_LONGEST_HISTORY:])
