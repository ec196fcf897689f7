"""One verdict's worth of figures: an engine's pictures against FP32's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import ModelError
from trt_facefusion.evaluation.accuracy.identity import identity_cosine
from trt_facefusion.evaluation.accuracy.metrics import PerFace, Pictures, finite, psnr_db, spread, ssim
from trt_facefusion.evaluation.accuracy.perceptual import PerceptualDistance
from trt_facefusion.faces.embedder import Embedder

WORST_FACES = 8
_SPREAD_RANGE = (1e-6, 1e6)  # where an exploded or dead output is written as: finite, so that JSON can hold it


@dataclass(frozen=True)
class Accuracy:
    """How an engine compares with FP32 on ``faces`` faces.

    ``ssim_drop`` is 1 - ``ssim``; the plain names are means over faces, ``*_worst`` and ``*_min`` the worst face.
    ``perceptual`` is the uncalibrated distance of `PerceptualDistance`. ``spread_ratio_worst`` is the ratio farthest
    from 1. ``worst_faces`` are the indices of lowest SSIM, the worst first. ``nonfinite`` counts faces with NaN or
    infinity; these score SSIM 0, PSNR 0 dB and cosine 0, and are black for the perceptual distance. Figures that were
    not asked for are None.
    """

    faces: int
    ssim: float
    ssim_worst: float
    ssim_drop: float
    ssim_drop_worst: float
    psnr_db: float
    psnr_db_worst: float
    perceptual: float | None
    identity_cosine: float | None
    identity_cosine_min: float | None
    spread_ratio_worst: float
    nonfinite: int
    worst_faces: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; none is NaN or infinite."""
        return {**asdict(self), "worst_faces": list(self.worst_faces)}


def judge(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    *,
    template: str | None = None,
    embedder: Embedder | None = None,
    perceptual: PerceptualDistance | None = None,
) -> Accuracy:
    """Compare an engine's pictures with those of the FP32 model on the same faces.

    Args:
        reference: FP32's pictures [N,H,W,3], meant to lie in [0,1] (`from_nchw`); sides of at least 11 px.
        candidate: the engine's, of the same shape. Both are clipped to [0,1], after the spread has been taken.
        template: the landmark template that the crops are aligned with; needed for the identity cosine.
        embedder: measures the identity cosine, where given (about 20 ms per face and side).
        perceptual: measures the perceptual distance, where given.

    Raises:
        ModelError: the FP32 model itself gives NaN or infinity, so that there is nothing to compare with.
        ValueError: the shapes differ or are not [N,H,W,3], or there is no face.
    """
    _check(reference, candidate)
    sound = finite(candidate)
    ratios = _clipped_ratios(reference, candidate, sound)
    wanted: Pictures = reference.clip(0, 1)
    got: Pictures = np.where(sound[:, None, None, None], candidate, 0).clip(0, 1)
    ssims = np.where(sound, ssim(wanted, got), 0.0)
    psnrs = np.where(sound, psnr_db(wanted, got), 0.0)
    cosines: PerFace | None = None
    if embedder is not None and template is not None:
        cosines = np.where(sound, identity_cosine(wanted, got, template, embedder), 0.0)
    return Accuracy(
        faces=len(reference),
        ssim=float(ssims.mean()),
        ssim_worst=float(ssims.min()),
        ssim_drop=float(1 - ssims.mean()),
        ssim_drop_worst=float(1 - ssims.min()),
        psnr_db=float(psnrs.mean()),
        psnr_db_worst=float(psnrs.min()),
        perceptual=None if perceptual is None else float(perceptual(wanted, got).mean()),
        identity_cosine=None if cosines is None else float(cosines.mean()),
        identity_cosine_min=None if cosines is None else float(cosines.min()),
        spread_ratio_worst=float(ratios[np.abs(np.log(ratios)).argmax()]),
        nonfinite=int((~sound).sum()),
        worst_faces=tuple(int(i) for i in np.argsort(ssims, kind="stable")[:WORST_FACES]),
    )


def _check(reference: NDArray[Any], candidate: NDArray[Any]) -> None:
    if reference.shape != candidate.shape or reference.ndim != 4 or reference.shape[-1] != 3 or not len(reference):
        raise ValueError(f"pictures must both be [N,H,W,3] with N > 0, not {reference.shape} and {candidate.shape}")
    broken = np.nonzero(~finite(reference))[0]
    if len(broken):
        raise ModelError(
            f"the FP32 model itself gives NaN or infinity on {len(broken)} of {len(reference)} faces "
            f"(the first is number {broken[0]})",
            "Check the model's weights, and that its inputs have the range and order that it was trained with.",
        )


def _clipped_ratios(reference: NDArray[Any], candidate: NDArray[Any], sound: NDArray[np.bool_]) -> PerFace:
    """Spread ratios of unclipped pictures, since clipping would hide an output that has blown up; broken ones get 0."""
    ratios = np.zeros(len(reference))
    with np.errstate(over="ignore"):
        ratios[sound] = spread(reference[sound], candidate[sound])
    return ratios.clip(*_SPREAD_RANGE)
