"""Thresholds tensor by tensor: where another rule's gives better pictures, it is taken.

Coordinate descent from the best table of one rule: the tensors that quantisation disturbs most come first, and each
keeps what the tensors before it got. Half of the faces choose; the other half, which chose nothing for this tensor,
must agree. The cost is bounded by a number of pictures, whatever the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.quantization.calibration.cache import Calibration
from trt_facefusion.quantization.calibration.noise import compute_sqnr_db
from trt_facefusion.quantization.calibration.threshold_choice import TensorChoice
from trt_facefusion.quantization.calibration.thresholds import list_tensor_rules, parse_rule
from trt_facefusion.types import Progress, silent

STAGE = "thresholds"
MIN_GAIN = 1e-5
"""Mean SSIM that another threshold must win at least: below it, a tensor of its own rule is not worth explaining."""
CHOOSING_ERRORS, CONFIRMING_ERRORS = 2.0, 1.0
"""How many standard errors of the mean (over faces, paired) a gain must exceed on either half."""
SAME = 0.05
"""Thresholds this close, relatively, count as one."""

Judge = Callable[[Mapping[str, float], slice], NDArray[np.float64]]
"""SSIM of each of the faces ``slice`` with a table."""

CHOOSING, CONFIRMING = slice(0, None, 2), slice(1, None, 2)


@dataclass(frozen=True)
class Candidate:
    """A tensor, and the thresholds that other rules give it: (rule, amax), the current one left out."""

    tensor: str
    rule: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class DescentResult:
    """The table with what was won, why, and how many trials that took."""

    table: Mapping[str, float]
    tensors: Mapping[str, TensorChoice]
    trials: int


def select_distinct(current: float, thresholds: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The thresholds that differ from ``current`` and from each other by more than `SAME`."""
    different: list[tuple[str, float]] = []
    for rule, amax in thresholds:
        compared = (current, *(threshold for _, threshold in different))
        if all(abs(np.log(amax / threshold)) > SAME for threshold in compared):
            different.append((rule, amax))
    return tuple(different)


def rank_tensors(calibration: Calibration, rule: str, names: Sequence[str]) -> list[Candidate]:
    """The tensors ``names``, the noisiest under ``rule`` first, with the thresholds of the other rules."""
    table = calibration.with_rule(rule).table
    by_noise: list[tuple[float, Candidate]] = []
    for name in names:
        if name in calibration.pinned:
            continue
        histogram = calibration.histograms[name]
        thresholds = [(other, parse_rule(other)(histogram)) for other in list_tensor_rules() if other != rule]
        different = select_distinct(table[name], thresholds)
        if different:
            by_noise.append((compute_sqnr_db(histogram, table[name]), Candidate(name, rule, different)))
    return [candidate for _, candidate in sorted(by_noise, key=itemgetter(0))]


def descend(
    table: Mapping[str, float],
    candidates: Sequence[Candidate],
    judge: Judge,
    budget: int,
    progress: Progress = silent,
) -> DescentResult:
    """Try the candidates in their order, at most ``budget`` trials (calls of ``judge``) in all.

    A tensor is tried only if all its thresholds and the confirmation are within what is left.
    """
    now = dict(table)
    best = judge(now, CHOOSING)
    trials, tensors = 1, dict[str, TensorChoice]()
    for candidate in candidates:
        if trials + len(candidate.alternatives) + 2 > budget:
            continue  # a later one may have fewer thresholds
        tried = [
            (judge({**now, candidate.tensor: amax}, CHOOSING), rule, amax) for rule, amax in candidate.alternatives
        ]
        trials += len(tried)
        progress(STAGE, trials, budget)
        winning = [entry for entry in tried if _wins(entry[0] - best, CHOOSING_ERRORS)]
        if not winning:
            continue
        faces, rule, amax = max(winning, key=lambda entry: float(entry[0].mean()))
        new = {**now, candidate.tensor: amax}
        confirmed = judge(new, CONFIRMING) - judge(now, CONFIRMING)
        trials += 2
        if _wins(confirmed, CONFIRMING_ERRORS):
            gain = float((faces - best).mean())
            tensors[candidate.tensor] = TensorChoice(rule, candidate.rule, gain, float(confirmed.mean()))
            now, best = new, faces
    return DescentResult(now, tensors, trials)


def _wins(gains: NDArray[np.float64], errors: float) -> bool:
    """Whether the mean of paired ``gains`` is more than noise."""
    if len(gains) < 2:
        return False
    noise = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return float(gains.mean()) > max(errors * noise, MIN_GAIN)
