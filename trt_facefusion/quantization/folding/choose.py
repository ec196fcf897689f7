"""Which exponents channels get that have to be scaled alike, where each tensor would rather have its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.quantization.folding.constants import Exponents
from trt_facefusion.quantization.folding.ties import ScaleTies

LARGEST = 5
"""Channels are divided or multiplied by at most two to this."""
_PEAK = 2.0**14
"""No tensor is brought above this: two powers of two are left to FP16's largest number."""
_ROUNDS = 30


def choose_exponents(
    ties: ScaleTies, log_factors: Mapping[str, NDArray[np.float64]], peaks: Mapping[str, float]
) -> dict[str, Exponents]:
    """Exponents [C] of the tensors of ``log_factors``, near to what each would have alone.

    Channels of one group get one exponent. A channel that is fixed is scaled in front of its quantiser, where no other
    tensor sees it, and gets one of its own.

    Args:
        ties: the groups.
        log_factors: tensor -> log2 of what each channel is best divided by, [C]; NaN for channels that do not matter,
            which get 0. Only differences between channels of one tensor count: a factor common to all of them changes
            nothing.
        peaks: tensor -> largest magnitude; what is known here is not brought out of FP16's range.
    """
    members, count = _separate_fixed(ties, log_factors)
    exponents = np.clip(np.rint(_average(members, log_factors, count)), -LARGEST, LARGEST).astype(np.int64)
    for tensor, peak in peaks.items():
        groups = ties.groups(tensor)
        if len(groups) and 0 < peak < np.inf:
            lowest = min(-int(np.floor(np.log2(_PEAK / peak))), 0)
            exponents[groups] = np.maximum(exponents[groups], lowest)
    return {name: exponents[groups] for name, groups in members.items()}


def _separate_fixed(
    ties: ScaleTies, log_factors: Mapping[str, NDArray[np.float64]]
) -> tuple[dict[str, NDArray[np.int64]], int]:
    """The group of each channel, with new ones for channels that are fixed; and how many groups there are then."""
    count, members = ties.count, {}
    for name in log_factors:
        groups = ties.groups(name)
        fixed = ties.is_fixed(groups)
        groups[fixed] = count + np.arange(fixed.sum())
        count += int(fixed.sum())
        members[name] = groups
    return members, count


def _average(
    members: Mapping[str, NDArray[np.int64]], log_factors: Mapping[str, NDArray[np.float64]], count: int
) -> NDArray[np.float64]:
    """What the tensors of each group want of it, brought to a common level for each tensor.

    The levels come from least squares, in turns over groups and tensors. Then a group gets the root mean square of the
    factors: what makes one channel too small costs that channel some steps, what makes it too large costs all channels
    of its tensor.
    """
    if not members:
        return np.zeros(count)
    groups = np.concatenate(list(members.values()))
    values = np.concatenate([_centre(log_factors[name]) for name in members])
    tensor = np.repeat(np.arange(len(members)), list(map(len, members.values())))
    matters = np.isfinite(values)
    groups, values, tensor = groups[matters], values[matters], tensor[matters]
    counts = np.maximum(np.bincount(groups, minlength=count), 1)
    sizes = np.maximum(np.bincount(tensor, minlength=len(members)), 1)
    factors, levels = np.zeros(count), -np.bincount(tensor, values, minlength=len(members)) / sizes
    for _ in range(_ROUNDS):
        factors = np.bincount(groups, values + levels[tensor], minlength=count) / counts
        levels = np.bincount(tensor, factors[groups] - values, minlength=len(members)) / sizes
    squares = np.bincount(groups, np.exp2(2 * (values + levels[tensor])), minlength=count) / counts
    return np.log2(np.where(squares > 0, squares, 1)) / 2


def _centre(log_factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors about that of the typical channel; what is further away than exponents reach would only move others."""
    return np.clip(log_factors - np.nanmedian(log_factors), -LARGEST, LARGEST)
