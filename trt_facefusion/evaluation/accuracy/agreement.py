"""How far two ways of running one network in full precision are apart: rounding, or another network?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.evaluation.accuracy.metric import Pictures
from trt_facefusion.evaluation.accuracy.metrics import find_finite, measure_ssim


@dataclass(frozen=True)
class RoundingLimits:
    """What counts as rounding: the mean SSIM drop, as a share of 1, and the largest difference of a value of 0..1."""

    ssim_drop: float
    max_difference: float

    def widened(self, rounding: Agreement) -> RoundingLimits:
        """Limits for a network whose own rounding was measured: up to four times that is rounding, too."""
        return RoundingLimits(
            max(self.ssim_drop, _ROUNDING_FACTOR * rounding.ssim_drop),
            max(self.max_difference, _ROUNDING_FACTOR * rounding.max_difference),
        )


SAME_NETWORK = RoundingLimits(1e-4, 0.02)
"""For FP32: five of 255 grey levels at one value; deep networks were seen to stay below a tenth of both."""
SAME_NETWORK_IN_HALF = RoundingLimits(3e-3, 0.1)
"""For files that compute in FP16: what is left of them is rounded as an FP16 engine is."""
_ROUNDING_FACTOR = 4


@dataclass(frozen=True)
class Agreement:
    """Pictures of one network made in two ways, on ``faces`` faces.

    ``ssim_drop`` is the mean of 1 - SSIM, ``ssim_drop_worst`` that of the worst face (1 where a face holds NaN or
    infinity); ``max_difference`` the largest difference of two values, which nominally lie in 0..1 (at most 1).
    """

    faces: int
    ssim_drop: float
    ssim_drop_worst: float
    max_difference: float

    def within(self, limits: RoundingLimits) -> bool:
        """Whether the two differ by no more than rounding."""
        return self.ssim_drop <= limits.ssim_drop and self.max_difference <= limits.max_difference

    def as_dict(self) -> dict[str, Any]:
        """Plain finite values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        levels = 255 * self.max_difference
        return f"SSIM drop {self.ssim_drop:.4%}, largest difference {levels:.2g} of 255 levels"


def measure_agreement(reference: NDArray[Any], candidate: NDArray[Any]) -> Agreement:
    """Compare pictures [N,H,W,3], nominally in 0..1 (clipped to it), N > 0; ``reference`` must be finite.

    Raises:
        ValueError: the shapes differ or are not [N,H,W,3].
    """
    return pooled([measured(reference, candidate)])


FaceDifferences = tuple[NDArray[np.float64], NDArray[np.float64]]
"""SSIM drop and largest difference of each face."""


def measured(reference: NDArray[Any], candidate: NDArray[Any]) -> FaceDifferences:
    """The figures of each face of one batch, for `pooled`."""
    sound = find_finite(candidate)
    pictures: Pictures = np.where(sound[:, None, None, None], candidate, 0).clip(0, 1)
    target = reference.clip(0, 1)
    drops = np.where(sound, np.maximum(1 - measure_ssim(target, pictures), 0), 1.0)
    largest = np.where(sound, np.abs(target - pictures).max(axis=(1, 2, 3)), 1.0)
    return drops, largest


def pooled(parts: list[FaceDifferences]) -> Agreement:
    """One verdict from the figures of all batches (at least one face)."""
    drops, largest = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Agreement(len(drops), float(drops.mean()), float(drops.max()), float(largest.max()))
