"""How much a build tries: levels of effort, what each costs in inferences, and which one the time allows.

Everything that is tried is counted in inferences of one face. One inference is timed, so a build's cost is known before
it starts. A level is chosen as a whole, among three that lie far apart: small differences between machines change
nothing, and a level that was chosen can be asked for by name. Judging is never cut: it is the proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.calibration import thresholds
from trt_facefusion.quantization.precision.search import Effort, effort

AUTO = "auto"
MINUTES = 15.0
"""What a build may take where nothing else was said; what is tried is cut to it."""
SEARCH_MACS = 20e12
"""MACs that a plan search spends at most at any level."""
TOLD_SECONDS = 60.0
"""A build that takes less is not worth a word about its cost."""

_SLOWER = {
    "calibration": 1.3,
    "thresholds": 1.5,
    "corrections": 1.5,
    "plan search": 1.5,
    "storing": 1.5,
    "judging": 1.5,
}
"""An inference of each step in those of the network itself, which are timed: Q/DQ, FP16 rounding and what is taken out
of the graph take time as well. Calibration as `benchmarks/calibration.py` measured it; the others are set above what
one network of inswapper's size took (1.1 to 1.4), so that a build ends early rather than late."""
_FEWEST_BUILDS = 4
_COMPILING = 0.3
"""Share of a build's minutes that compiling candidates of the plan search may take."""
_BUSY = 1.5
"""Slowdowns below this are not worth a word."""


@dataclass(frozen=True)
class Level:
    """Limits of what is tried. All counts are of calibration faces unless they say otherwise."""

    name: str
    look_faces: int = 64
    """Looked at for the ranges of channels, and of what INT8 does not read."""
    rule_effort: int = thresholds.FULL
    """Threshold rules that are compared as whole tables: those that this much effort is enough for."""
    validation_faces: int = 16
    """Whole tables and corrections are compared on these."""
    trial_pictures: int = 256
    """Pictures that the search for single tensors' thresholds may paint; never fewer than the pass has faces, unless
    it is 0."""
    correcting_faces: int = 32
    """Layers' inputs are taken from these."""
    search_faces: int = 16
    search_inferences: int | None = None
    """Inferences that the plan search may use, beside the limit of MACs."""
    search_builds: int = 48
    """Engines that the plan search may have compiled, where it makes least of time."""
    storing_faces: int = 8
    storing_ranges: int = 32
    storing_trials: int = 8

    @property
    def rules(self) -> tuple[str, ...]:
        """Threshold rules that are compared as whole tables."""
        return thresholds.list_compared_rules(self.rule_effort)

    def limit_search(self, groups: int, macs: int, faces: int, faces_named: int = 0) -> Effort:
        """What the plan search measures: ``groups`` of layers, ``macs`` of one face, at most ``faces`` there are.

        ``faces_named`` faces are taken at any price; 0 leaves their number to the level.
        """
        if faces_named:
            return effort(groups, macs, min(faces_named, faces), float("inf"))
        work = SEARCH_MACS
        if self.search_inferences is not None:
            work = min(work, float(self.search_inferences * max(macs, 1)))
        return effort(groups, macs, min(self.search_faces, faces), work)

    def count_trials(self, faces: int) -> int:
        """Pictures that thresholds of single tensors may cost, where ``faces`` are calibrated on."""
        return max(self.trial_pictures, faces) if self is FULL else self.trial_pictures


FULL = Level("full")
REDUCED = Level(
    "reduced",
    look_faces=16,
    rule_effort=thresholds.REDUCED,
    validation_faces=8,
    trial_pictures=64,
    correcting_faces=16,
    search_faces=8,
    search_inferences=96,
    search_builds=24,
    storing_faces=4,
    storing_ranges=16,
    storing_trials=4,
)
LEAST = Level(
    "least",
    look_faces=8,
    rule_effort=thresholds.ALWAYS,
    validation_faces=4,
    trial_pictures=0,
    correcting_faces=8,
    search_faces=4,
    search_inferences=40,
    search_builds=12,
    storing_faces=2,
    storing_ranges=8,
    storing_trials=2,
)
LEVELS = (FULL, REDUCED, LEAST)


def find_level(name: str) -> Level | None:
    """The level called ``name``; None for ``auto``.

    Raises:
        BadInputError: there is no such level.
    """
    levels = {level.name: level for level in LEVELS}
    if name != AUTO and name not in levels:
        raise BadInputError(f"there is no effort {name!r}", f"use {AUTO}, {', '.join(levels)}")
    return levels.get(name)


@dataclass(frozen=True)
class Task:
    """What a build has to do, as far as its cost depends on it."""

    calibration_faces: int
    verification_faces: int
    groups: int
    """Groups of layers that the plan search could tell apart."""
    macs: int
    """Of one face."""
    precisions: int = 1
    """How many precisions are judged."""
    int8: bool = True
    calibrates: bool = True
    """No table was named."""
    compares_rules: bool = True
    equalises: bool = True
    """Scale and shift of channels are tried."""
    folds: bool = False
    """Scales of channels that are folded into constants are tried beside them."""
    corrects: int = 2
    """Sets of corrections of layers that are tried."""
    searches: bool = True
    search_faces: int = 0
    stores: bool = False
    """The engine keeps its results in integers, which is tried out."""
    times_plans: bool = False
    """The plan search has engines compiled."""


@dataclass(frozen=True)
class Estimate:
    """Inferences of each step at one level, engines that are compiled, and what they take here."""

    level: Level
    steps: Mapping[str, int]
    seconds_each: float
    overhead_s: float = 0.0
    engines: int = 0
    engine_s: float = 0.0

    @property
    def inferences(self) -> int:
        """All of them."""
        return sum(self.steps.values())

    @property
    def seconds(self) -> float:
        """What the build takes, as far as is known beforehand."""
        return sum(map(self.estimate_seconds, self.steps)) + self.overhead_s + self.engines * self.engine_s

    def estimate_seconds(self, step: str) -> float:
        """What one step takes."""
        return self.steps.get(step, 0) * _SLOWER[step] * self.seconds_each


def count_steps(task: Task, level: Level) -> dict[str, int]:
    """Inferences of each step of ``task`` at ``level``, at most; steps that are not made are left out."""
    faces = task.calibration_faces
    counts: dict[str, int] = {}
    few = min(level.validation_faces, faces)
    if task.calibrates:
        counts["calibration"] = faces + min(level.look_faces, faces)
    if task.calibrates and task.int8:
        rules = len(level.rules) if task.compares_rules else 1
        forms = (1 + task.folds) if task.equalises else 0
        tables = few * (1 + rules + forms)
        counts["thresholds"] = tables + (level.count_trials(faces) if task.compares_rules else 0)
    if task.int8 and task.corrects:
        counts["corrections"] = min(level.correcting_faces, faces) + few * (2 + task.corrects)
    if task.int8 and task.searches:
        planned = level.limit_search(task.groups, task.macs, faces, task.search_faces)
        counts["plan search"] = (planned.plans + 1) * planned.faces
    if task.int8 and task.stores:
        counts["storing"] = min(level.storing_ranges, faces) + min(level.storing_faces, faces) * (
            3 + level.storing_trials
        )
    # By the file as it was handed in, by the prepared network, and by each engine.
    counts["judging"] = task.verification_faces * (2 + task.precisions)
    return {name: count for name, count in counts.items() if count}


def count_engines(task: Task, level: Level, engine_s: float, minutes: float) -> int:
    """Engines that are compiled at most, at ``engine_s`` seconds each; ``minutes`` is 0 where there is no limit.

    None are counted where the search has none compiled: those that are stored are few, and take a while only on GPUs.
    """
    if not (task.int8 and task.searches and task.times_plans):
        return 0
    forms = 2 if task.equalises and task.folds else 0
    return limit_builds(level, engine_s, minutes) + task.precisions + forms


def estimate_levels(
    task: Task, seconds_each: float, overhead_s: float = 0.0, engine_s: float = 0.0, minutes: float = 0.0
) -> tuple[Estimate, ...]:
    """What ``task`` costs at every level, from the most to the least.

    Args:
        task: what there is to do.
        seconds_each: of one inference.
        overhead_s: of what is done once.
        engine_s: of compiling one engine.
        minutes: of the whole build, where compiling is cut to a share of them; 0 where it is not.
    """
    return tuple(
        Estimate(
            level,
            count_steps(task, level),
            seconds_each,
            overhead_s,
            count_engines(task, level, engine_s, minutes),
            engine_s,
        )
        for level in LEVELS
    )


def limit_builds(level: Level, each_s: float, minutes: float) -> int:
    """Engines that a plan search may have compiled at ``each_s`` seconds each, in a build of ``minutes`` (0: no limit).

    As many as the level allows, or half of that, and so on, until they fit into their share of the time.
    """
    most = level.search_builds
    while minutes and most > _FEWEST_BUILDS and most * each_s > 60 * minutes * _COMPILING:
        most //= 2
    return max(most, _FEWEST_BUILDS)


def choose_affordable(estimates: Sequence[Estimate], minutes: float) -> Estimate:
    """The most that fits into ``minutes`` (0: no limit), or the least there is."""
    fitting = [estimate for estimate in estimates if not minutes or estimate.seconds <= 60 * minutes]
    return (fitting or [estimates[-1]])[0]


@dataclass(frozen=True)
class BuildCost:
    """What a build was expected to cost, and why it tries no more than it does."""

    estimate: Estimate
    full: Estimate
    minutes: float
    effort: str = AUTO
    shown: tuple[str, ...] = ()
    """The steps that are made now, where others are made some other time; the level is chosen for all of them."""

    slowdown: float = 1.0
    """How many times as long everything takes at the moment, as the machine does something else as well."""

    simulates: bool = False
    """Whether a simulator runs at the end; what that takes is known only then."""

    @property
    def cut(self) -> bool:
        """Whether less is tried than without a limit of time."""
        return self.estimate.level is not self.full.level

    def describe(self) -> str:
        """One line for the person who waits."""
        busy = f". The machine is busy: now it takes {self.slowdown:.1f} times as long" if self.slowdown > _BUSY else ""
        simulator = ", and what the simulator takes at the end, which is told after its first face"
        return self._describe_steps() + (simulator if self.simulates else "") + busy

    def _describe_steps(self) -> str:
        each = self.estimate.seconds_each
        if self.shown:
            count = sum(self.estimate.steps.get(name, 0) for name in self.shown)
            takes = sum(map(self.estimate.estimate_seconds, self.shown))
            named = " and ".join(self.shown)
            effort = f"; effort {self.estimate.level.name}" if self.cut else ""
            about = f"about {format_duration(takes)} on this machine"
            return f"{about}: {count} inferences of {each:.2g} s, {named}{effort}"
        parts = ", ".join(f"{name} {count}" for name, count in self.estimate.steps.items())
        line = (
            f"about {format_duration(self.estimate.seconds)} on this machine: at most {self.estimate.inferences} "
            f"inferences of {each:.2g} s and more ({parts})"
        )
        if self.estimate.engines and self.estimate.engine_s:
            line += f", and {self.estimate.engines} engines of {self.estimate.engine_s:.2g} s are compiled"
        if not self.cut:
            return line
        longest, level = format_duration(self.full.seconds), self.estimate.level.name
        everything = f"all that could be tried takes about {longest} (--effort {self.full.level.name})"
        if self.effort != AUTO:
            return f"{line}; effort {level}, as asked for: {everything}"
        line = f"{line}; effort {level} to stay within {self.minutes:g} minutes (--time): {everything}"
        if self.estimate.seconds > 60 * self.minutes:
            judging = self.estimate.estimate_seconds("judging")
            line += f". It does not fit all the same; judging takes {format_duration(judging)} of it (--max-eval)"
        return line

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: how much is tried, why, and what that was expected to take."""
        return {
            "level": self.estimate.level.name,
            "asked": self.effort,
            "minutes": self.minutes,
            "inferences": dict(self.estimate.steps),
            "inferences_full": dict(self.full.steps),
            "seconds_an_inference": round(self.estimate.seconds_each, 4),
            "engines": self.estimate.engines,
            "seconds_an_engine": round(self.estimate.engine_s, 2),
            "seconds_estimated": round(self.estimate.seconds, 1),
            "seconds_estimated_full": round(self.full.seconds, 1),
        }

    def record(self) -> dict[str, Any]:
        """For the manifest and ``search.json``: the level, and where something was cut all of `as_dict`.

        Where nothing was cut, nothing depends on how fast the machine is, and nothing is said of it.
        """
        return self.as_dict() if self.cut else {"level": self.estimate.level.name, "asked": self.effort}


def format_duration(seconds: float) -> str:
    """``seconds`` in words: minutes from two on."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{max(seconds, 1):.0f} s"
