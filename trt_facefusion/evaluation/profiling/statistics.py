"""Figures made of measured times; nothing here measures anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 4000
_SEED = 0


@dataclass(frozen=True)
class Latency:
    """Percentiles of the latency of one call, in milliseconds (between two values: linear interpolation)."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Latency:
        """Percentiles of ``times_ms``, of which there must be at least one."""
        p50, p90, p95, p99 = (float(time_ms) for time_ms in np.percentile(times_ms, [50, 90, 95, 99]))
        return cls(p50, p90, p95, p99, float(max(times_ms)))

    def as_dict(self) -> dict[str, float]:
        """The percentiles by name."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two engines measured in turn: medians in milliseconds, and how many times as long ``other`` takes as ``one``.

    ``low`` and ``high`` enclose the ratio of the medians with 95 % confidence, as far as the rounds are independent.
    """

    one_ms: float
    other_ms: float
    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def differ(self) -> bool:
        """Whether the interval leaves out 1: otherwise the difference may be chance."""
        return not self.low <= 1 <= self.high


def compare(one_ms: Sequence[float], other_ms: Sequence[float]) -> Comparison:
    """Compare the times of two engines, round by round: the i-th values were measured next to each other.

    The interval is the percentile bootstrap over rounds (B. Efron, "Bootstrap methods: another look at the jackknife",
    1979): both times of a round are drawn together, so that what slows down both cancels out. The seed is fixed.

    Raises:
        ValueError: not as many values of one as of the other, or none.
    """
    one, other = np.asarray(one_ms, np.float64), np.asarray(other_ms, np.float64)
    if one.shape != other.shape or not one.size:
        raise ValueError("the rounds of both engines must be as many, and at least one")
    drawn = np.random.default_rng(_SEED).integers(0, one.size, (_RESAMPLES, one.size))
    ratios = np.median(other[drawn], axis=1) / np.median(one[drawn], axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = (float(bound) for bound in np.percentile(ratios, [tail, 100 - tail]))
    medians = float(np.median(one)), float(np.median(other))
    return Comparison(*medians, medians[1] / medians[0], low, high, int(one.size))


def compute_throughput(samples: int, seconds: float) -> float:
    """Samples per second."""
    return samples / seconds


def alternate_order(count: int, rounds: int) -> list[tuple[int, ...]]:
    """The order of ``count`` engines in each round: forwards, backwards, forwards ...

    Whoever comes second finds caches and clocks as the first one left them; turning the order evens that out.
    """
    forwards = tuple(range(count))
    return [forwards if number % 2 == 0 else forwards[::-1] for number in range(rounds)]
