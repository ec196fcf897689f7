"""How far a candidate's pictures are from the baseline's, and how far they may be.

Two kinds of things speak against a candidate:

- the mean over the window, the last N comparisons, of SSIM drop, PSNR or identity cosine is beyond its limit, once
  there are `least_to_reject` of them;
- faults: more than `max_faults` within the last N faces that it was asked for. A fault is a picture that is broken
  where the baseline's is not, an engine that raised, hung or failed its probe, or a picture whose SSIM drop is ten
  times what the mean may be. Faults are not averaged and wait for no number of comparisons: what is grossly wrong is
  out after a few faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.evaluation.accuracy.identity import measure_identity_cosine
from trt_facefusion.evaluation.accuracy.metrics import measure_psnr_db, measure_ssim
from trt_facefusion.faces.embedder import Embedder

GROSS = 10.0
"""A drop of so many times the budget is a fault by itself."""


@dataclass(frozen=True)
class FaceComparison:
    """A candidate's picture of one face against the baseline's."""

    psnr_db: float
    ssim: float
    identity: float


@dataclass(frozen=True)
class RolloutBudget:
    """What a candidate may lose, over ``window`` comparisons or faces (see the module)."""

    max_ssim_drop: float = 0.02
    min_psnr_db: float = 30.0
    min_identity: float = 0.95
    max_faults: int = 2
    window: int = 200
    least_to_reject: int = 20
    least_to_promote: int = 100

    def is_gross(self, comparison: FaceComparison) -> bool:
        """Whether this one picture is a fault."""
        return 1 - comparison.ssim > GROSS * self.max_ssim_drop

    def find_breach(self, window: Sequence[FaceComparison], faults: int) -> str | None:
        """Why the candidate is to be rolled back, given its window and the faults in it; None where it is not."""
        if faults > self.max_faults:
            return f"{faults} faults within {self.window} faces, and at most {self.max_faults} are allowed"
        if len(window) < min(self.least_to_reject, self.window):
            return None
        means = average(window)
        over = f" over {len(window)} comparisons, and "
        if 1 - means.ssim > self.max_ssim_drop:
            return f"the mean SSIM drop is {1 - means.ssim:.4f}{over}at most {self.max_ssim_drop:.4f} is allowed"
        if means.psnr_db < self.min_psnr_db:
            return f"the mean PSNR is {means.psnr_db:.2f} dB{over}at least {self.min_psnr_db:.2f} dB is allowed"
        if means.identity < self.min_identity:
            return f"the mean identity cosine is {means.identity:.4f}{over}at least {self.min_identity:.4f} is allowed"
        return None


def average(window: Sequence[FaceComparison]) -> FaceComparison:
    """The mean of each figure over ``window``, which is not empty."""
    rows = np.array([(row.psnr_db, row.ssim, row.identity) for row in window], np.float64)
    psnr_db, ssim, identity = (float(mean) for mean in rows.mean(axis=0))
    return FaceComparison(psnr_db, ssim, identity)


def compare_pictures(
    baseline: NDArray[np.float32], candidate: NDArray[np.float32], template: str, embedder: Embedder
) -> FaceComparison:
    """Two sound pictures [S,S,3] (0..1) of one face, aligned with ``template``, as people would see them: clipped."""
    pair = baseline[None].clip(0, 1), candidate[None].clip(0, 1)
    return FaceComparison(
        float(measure_psnr_db(*pair)[0]),
        float(measure_ssim(*pair)[0]),
        float(measure_identity_cosine(*pair, template, embedder)[0]),
    )
