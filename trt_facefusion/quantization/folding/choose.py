"""Which exponents channels get that have to be scaled alike, where each tensor would rather have its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.quantization.folding.ties import Groups, ScaleTies

LARGEST = 5
"""Channels are divided or multiplied by at most two to this."""
_PEAK = 2.0**14
"""No tensor is brought above this: two powers of two are left to FP16's largest number."""
_ROUNDS = 30


def choose_group_exponents(
    ties: ScaleTies, log_factors: Mapping[str, NDArray[np.float64]], peaks: Mapping[str, float]
) -> NDArray[np.int64]:
    """The exponent of every group, so that tensors come near to what they would have alone.

    Args:
        ties: the groups; those that are fixed, and those that no tensor of ``log_factors`` is in, get 0.
        log_factors: tensor -> log2 of what each channel is best divided by, [C]; NaN for channels that do not matter.
            Only differences between channels of one tensor count: a factor common to all of them changes nothing.
        peaks: tensor -> largest magnitude; what is known here is not brought out of FP16's range.
    """
    members = [(ties.groups(name), values) for name, values in log_factors.items()]
    wanted = _average(ties, members)
    exponents = np.clip(np.rint(wanted), -LARGEST, LARGEST).astype(np.int64)
    for tensor, peak in peaks.items():
        groups = ties.groups(tensor)
        if len(groups) and 0 < peak < np.inf:
            lowest = min(-int(np.floor(np.log2(_PEAK / peak))), 0)
            exponents[groups] = np.maximum(exponents[groups], lowest)
    return exponents


def _average(ties: ScaleTies, members: list[tuple[Groups, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Least squares over factors of groups and a level for each tensor, one after the other in turns."""
    if not members:
        return np.zeros(ties.count)
    groups = np.concatenate([names for names, _ in members])
    values = np.concatenate([factors for _, factors in members])
    tensor = np.repeat(np.arange(len(members)), [len(names) for names, _ in members])
    matters = np.isfinite(values)
    groups, values, tensor = groups[matters], values[matters], tensor[matters]
    free = ~ties.is_fixed(groups)
    counts = np.maximum(np.bincount(groups, minlength=ties.count), 1)
    sizes = np.maximum(np.bincount(tensor, minlength=len(members)), 1)
    factors, levels = np.zeros(ties.count), -np.bincount(tensor, values, minlength=len(members)) / sizes
    for _ in range(_ROUNDS):
        sums = np.bincount(groups, (values + levels[tensor]) * free, minlength=ties.count)
        factors = sums / counts
        levels = np.bincount(tensor, factors[groups] - values, minlength=len(members)) / sizes
    return factors
