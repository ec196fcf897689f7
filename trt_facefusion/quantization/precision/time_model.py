"""The time of every plan, of which only some were compiled: estimates that add up, corrected by what was compiled.

Each group has a first estimate of what it spares in INT8. It is wrong by an error of its own, and by one for each pair
of neighbours that are both in INT8: a compiler fuses across their border, or has to cast there. These errors are
learned by a linear regression with a normal prior on each (Bishop, Pattern Recognition and Machine Learning, 3.3): it
meets every compiled plan exactly, corrects plans that are like it most, and says how far it may be off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.quantization.precision.groups import GroupSet

_TRUST = 0.3
"""How far an estimate is off, usually: this share of the group's time in FP16."""
_LEAST_SPAN = 0.01
"""No group counts for less than this share of the mean one: where nothing is charged to a layer, little is known."""
_LEAST_GAIN = 2e-4
"""The share of the FP16 engine's time that a group must spare to be worth INT8 at all."""
_JITTER = 1e-9


@dataclass(frozen=True)
class GroupTime:
    """One group: milliseconds that are charged to it in the FP16 engine, and in the one with everything in INT8."""

    fp16_ms: float
    int8_ms: float


class TimeModel:
    """Milliseconds of the engine of any plan.

    ``groups`` are first estimates; ``neighbours`` are pairs of groups that a border lies between; ``compiled`` are
    the plans that are known, the one without INT8 (``fp16_ms``) among them; ``refused`` are those that cannot be
    compiled.
    """

    def __init__(self, groups: Sequence[GroupTime], neighbours: Sequence[tuple[int, int]], fp16_ms: float) -> None:
        self.gains = np.array([group.fp16_ms - group.int8_ms for group in groups])
        spans = np.array([max(group.fp16_ms, group.int8_ms) for group in groups])
        self._doubts = _TRUST * np.maximum(spans, _LEAST_SPAN * max(spans.mean() if len(groups) else 0.0, _JITTER))
        self.neighbours = tuple(neighbours)
        self.compiled: dict[GroupSet, float] = {frozenset(): fp16_ms}
        self.refused: set[GroupSet] = set()
        self.least_gain = _LEAST_GAIN * fp16_ms
        self._features = np.zeros((0, len(groups) + len(self.neighbours)))
        self._errors = np.zeros(0)
        self._weights = np.zeros(self._features.shape[1])

    @property
    def fp16_ms(self) -> float:
        """Without INT8."""
        return self.compiled[frozenset()]

    def learn(self, in_int8: GroupSet, time_ms: float) -> None:
        """Take in the time of a compiled plan."""
        if in_int8 in self.compiled:
            return
        self.compiled[in_int8] = time_ms
        self._features = np.vstack([self._features, self._describe(in_int8)])
        self._errors = np.append(self._errors, time_ms - self._add_up(in_int8))
        self._weights = self._features.T @ self._solve(self._errors)

    def refuse(self, in_int8: GroupSet) -> None:
        """Take in that a plan cannot be compiled; of plans that are like it this says nothing."""
        self.refused.add(in_int8)

    def predict(self, in_int8: GroupSet) -> float:
        """Milliseconds; exact for what was compiled."""
        known = self.compiled.get(in_int8)
        return known if known is not None else self._add_up(in_int8) + float(self._describe(in_int8) @ self._weights)

    def compute_doubt(self, in_int8: GroupSet) -> float:
        """Standard deviation of `predict`, milliseconds; 0 for what was compiled."""
        if in_int8 in self.compiled:
            return 0.0
        features = self._describe(in_int8)
        known = self._features @ features
        variance = float(features @ features - known @ self._solve(known))
        return math.sqrt(max(variance, 0.0))

    def cost(self, in_int8: GroupSet) -> float:
        """`predict`, and a little for each group: of equally fast plans the one with less in INT8 is better."""
        return self.predict(in_int8) + self.least_gain * len(in_int8)

    def _add_up(self, in_int8: GroupSet) -> float:
        return self.fp16_ms - float(self.gains[sorted(in_int8)].sum())

    def _describe(self, in_int8: GroupSet) -> NDArray[np.float64]:
        """The errors that a plan has, each as large as it usually is."""
        alone = [self._doubts[group] if group in in_int8 else 0.0 for group in range(len(self.gains))]
        pairs = [min(self._doubts[a], self._doubts[b]) if {a, b} <= in_int8 else 0.0 for a, b in self.neighbours]
        return np.array([*alone, *pairs])

    def _solve(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        products = self._features @ self._features.T
        jitter = _JITTER * max(float(products.trace()), 1e-30) / max(len(products), 1)
        solved: NDArray[np.float64] = np.linalg.solve(products + jitter * np.eye(len(products)), right)
        return solved
