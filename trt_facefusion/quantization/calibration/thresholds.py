"""Histogram -> amax: the magnitude that INT8's 127 stands for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.calibration.histogram import BINS, MIN_EXPONENT, Histogram

MIN_AMAX = 2.0**MIN_EXPONENT
"""No rule gives less, so that amax/127 is a normal float32; what never reaches this is taken as always zero."""

ZERO_AMAX = 1.0
"""The amax of a tensor that was always zero: any positive value represents it exactly."""

DEFAULT_PERCENTILE = 99.99

P = ParamSpec("P")
_Floats = NDArray[np.float64]
_TIE = 1e-10
_REMEMBERED = 1 << 16
"""Answers of each rule that are kept: a build asks for those of the same histograms again and again."""
_STEPS_PER_OCTAVE, _OCTAVES = 64, 5


@dataclass(frozen=True)
class ThresholdRule:
    """A way to choose amax from a histogram; ``str(rule)`` is what ``parse_rule`` takes."""

    name: str
    threshold: Callable[[Histogram], float]

    def __call__(self, histogram: Histogram) -> float:
        """A positive, finite amax."""
        return self.threshold(histogram)

    def __str__(self) -> str:
        return self.name


def _keep_positive(threshold: Callable[Concatenate[Histogram, P], float]) -> Callable[Concatenate[Histogram, P], float]:
    remembered: dict[tuple[object, ...], float] = {}

    @functools.wraps(threshold)
    def wrapped(histogram: Histogram, /, *args: P.args, **kwargs: P.kwargs) -> float:
        if histogram.amax < MIN_AMAX:
            return ZERO_AMAX
        key = (histogram.digest(), args, tuple(kwargs.items()))
        if key not in remembered:
            if len(remembered) >= _REMEMBERED:
                remembered.clear()
            remembered[key] = max(threshold(histogram, *args, **kwargs), MIN_AMAX)
        return remembered[key]

    return wrapped


@_keep_positive
def amax_max(histogram: Histogram) -> float:
    """The largest magnitude seen: nothing is clipped."""
    return histogram.amax


@_keep_positive
def amax_percentile(histogram: Histogram, percent: float = DEFAULT_PERCENTILE) -> float:
    """The upper edge of the bin below which ``percent`` % of all values lie (zeros count as values)."""
    below = np.cumsum(histogram.counts)
    # 99.9 / 100 * 100_000 is a hair above 99_900: without the margin the next value would count.
    bin_index = int(np.searchsorted(below, percent / 100 * int(below[-1]) * (1 - 1e-12)))
    return min((bin_index + 1) * histogram.bin_width, histogram.amax)


@_keep_positive
def amax_entropy(histogram: Histogram, levels: int = 128) -> float:
    """The threshold that loses the least information, as TensorRT's entropy calibrator finds it.

    For every i from ``levels`` to the last filled bin: P is the first i bins with everything beyond added to the last
    of them, Q the same bins (nothing added) merged to ``levels`` and spread out again evenly over those that are not
    empty; the i with the smallest KL(P || Q) wins, the largest such i when several tie.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, slides 33-39. As in NVIDIA's pytorch-quantization, the
    first bin takes the count of the second: the many exact zeros of a ReLU cost nothing at any threshold.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    sizes = np.arange(levels, np.flatnonzero(counts)[-1] + 2)
    divergences = _compute_kl_divergences(counts, sizes, levels)
    best = int(sizes[divergences <= divergences.min() + _TIE][-1])
    return min((best + 0.5) * histogram.bin_width, histogram.amax)


@_keep_positive
def amax_mse(histogram: Histogram, levels: int = 127) -> float:
    """The threshold with the smallest mean squared error of quantisation to ``levels`` steps each side of zero.

    Candidates are 1.1 % apart, down to 1/32 of the largest magnitude. Values are taken as spread evenly inside each
    bin, but as exact zeros in the first.
    """
    candidates = histogram.amax * 2.0 ** -(np.arange(_OCTAVES * _STEPS_PER_OCTAVE) / _STEPS_PER_OCTAVE)
    counts = histogram.counts.astype(np.float64)
    counts[0] = 0
    steps = candidates / levels / histogram.bin_width
    return float(candidates[np.argmin(_sum_squared_errors(counts, steps, levels))])


ALWAYS, REDUCED, FULL, SINGLE_TENSORS = range(4)
"""How much has to be tried for a rule to be compared: always; at reduced effort; at full effort; there for single
tensors only, which may clip more than a whole table should."""


@dataclass(frozen=True)
class RuleKind:
    """A rule, or rules that differ in one value (``name:VALUE``), in the registry.

    ``threshold`` gives the amax, by the usual value where there are several. ``compared`` are the spellings that
    `auto` compares, each from how much effort on; ``place`` orders the rules there: whole tables start from the last
    one, and of rules that are equally good the first is taken. ``with_value`` reads the text of a value, and raises
    ValueError where there is no such rule; ``usual_value`` is taken where none is named.
    """

    threshold: Callable[[Histogram], float]
    compared: Mapping[str, int]
    place: int = 50
    with_value: Callable[[str], ThresholdRule] | None = None
    usual_value: str = ""

    def __call__(self, histogram: Histogram) -> float:
        """A positive, finite amax."""
        return self.threshold(histogram)


def _make_percentile_rule(text: str) -> ThresholdRule:
    percent = float(text)
    if not 0 < percent <= 100:
        raise ValueError(text)
    return ThresholdRule(f"percentile:{percent:.10g}", lambda histogram: amax_percentile(histogram, percent))


_PERCENTILES = {
    "percentile:99.99": ALWAYS,
    "percentile:99.999": FULL,
    "percentile:99.97": SINGLE_TENSORS,
    "percentile:99.9": SINGLE_TENSORS,
}

THRESHOLD_RULES: dict[str, RuleKind] = {
    "entropy": RuleKind(amax_entropy, {"entropy": REDUCED}, place=10),
    "percentile": RuleKind(
        amax_percentile, _PERCENTILES, place=30, with_value=_make_percentile_rule, usual_value=f"{DEFAULT_PERCENTILE}"
    ),
    "max": RuleKind(amax_max, {"max": ALWAYS}, place=100),
    "mse": RuleKind(amax_mse, {"mse": FULL}, place=20),
}
"""All rules by name: what compares, names or explains rules goes through this list."""


def list_compared_rules(effort: int = FULL) -> tuple[str, ...]:
    """The rules that `auto` compares as whole tables, as `parse_rule` takes them; the last is the one to start from."""
    return tuple(rule for _, kind in _sort_rules() for rule, least in kind.compared.items() if least <= effort)


def list_tensor_rules() -> tuple[str, ...]:
    """The rules that are tried for single tensors."""
    more = (rule for _, kind in _sort_rules() for rule, least in kind.compared.items() if least == SINGLE_TENSORS)
    return (*list_compared_rules(), *more)


def describe_rule_syntax() -> str:
    """What a rule may be, in words."""
    plain = [name for name, kind in _sort_rules() if kind.with_value is None]
    valued = [f"{name}:VALUE" for name, kind in _sort_rules() if kind.with_value is not None]
    return f"auto, {', '.join(plain)} or {', '.join(valued)}."


def _sort_rules() -> list[tuple[str, RuleKind]]:
    return sorted(THRESHOLD_RULES.items(), key=lambda rule: rule[1].place)


def parse_rule(text: str) -> ThresholdRule:
    """The rule that ``text`` names: ``entropy``, ``max``, ``mse``, ``percentile`` or ``percentile:99.99``.

    Raises:
        BadInputError: there is no such rule, or the percentile is not above 0 and at most 100.
    """
    name, colon, parameter = text.partition(":")
    kind = THRESHOLD_RULES.get(name)
    if kind is not None and kind.with_value is None and not colon:
        return ThresholdRule(text, kind.threshold)
    if kind is not None and kind.with_value is not None:
        with suppress(ValueError):
            return kind.with_value(parameter if colon else kind.usual_value)
    raise BadInputError(
        f"there is no calibration rule {text!r}",
        f"use {', '.join(THRESHOLD_RULES)}, or percentile:VALUE with a value above 0 and at most 100",
    )


def _compute_kl_divergences(counts: _Floats, sizes: NDArray[np.int64], levels: int) -> _Floats:
    """KL(P || Q) [len(sizes)] in nats for the first ``size`` bins of ``counts``, for each of ``sizes``.

    With T the sum of P and C that of Q, KL = (sum P log P - sum P log Q) / T - log T + log C. Q is constant over the
    filled bins of a level, so both sums come from running totals and no P or Q is ever written out.
    """
    below = _sum_running(counts)
    filled = _sum_running(counts > 0)
    xlogx = _sum_running(_compute_xlogx(counts))
    edges = -(-sizes[:, None] * np.arange(levels + 1) // levels)  # the first bin of each level: ceil(size * j / levels)
    mass = np.diff(below[edges], axis=1)
    log_q = np.log(np.where(mass > 0, mass / np.maximum(np.diff(filled[edges], axis=1), 1), 1))
    outliers = below[-1] - below[sizes]
    last = counts[sizes - 1]
    p_log_p = xlogx[sizes - 1] + _compute_xlogx(last + outliers)
    p_log_q = (mass * log_q).sum(1) + outliers * log_q[:, -1]
    with np.errstate(divide="ignore"):
        divergences = (p_log_p - p_log_q) / below[-1] - math.log(below[-1]) + np.log(below[sizes])
    # Outliers folded into an empty bin: P is positive where Q is zero.
    divergences[(last == 0) & (outliers > 0)] = np.inf
    return np.asarray(divergences)


def _sum_squared_errors(counts: _Floats, steps: _Floats, levels: int) -> _Floats:
    """Sum of squared rounding and clipping errors, in bins squared, for each step width (in bins)."""
    level = np.arange(levels + 1)
    edges = np.minimum(np.maximum(np.append(level, levels + 1) - 0.5, 0) * steps[:, None], BINS)
    edges[:, -1] = BINS  # everything beyond the last level is clipped to it
    zeroth, first, second = (np.diff(_sum_moment(counts, edges, k), axis=1) for k in range(3))
    centre = level * steps[:, None]
    return np.asarray((second - 2 * centre * first + centre**2 * zeroth).sum(1))


def _sum_moment(counts: _Floats, upto: _Floats, k: int) -> _Floats:
    """The k-th moment about zero of all values below ``upto`` (bins), those of a bin spread evenly inside it."""
    primitive = np.arange(BINS + 1.0) ** (k + 1) / (k + 1)
    below = _sum_running(counts * np.diff(primitive))
    inside = np.minimum(upto.astype(np.intp), BINS - 1)
    return np.asarray(below[inside] + counts[inside] * (upto ** (k + 1) / (k + 1) - primitive[inside]))


def _sum_running(values: NDArray[np.generic]) -> _Floats:
    """Sums of the first 0, 1, 2 ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _compute_xlogx(x: _Floats) -> _Floats:
    return np.asarray(x * np.log(np.where(x > 0, x, 1)))
