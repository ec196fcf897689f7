"""One verdict's worth of figures: an engine's pictures against FP32's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import ModelError
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.metric import Metric, PerFace, Pictures
from trt_facefusion.evaluation.accuracy.metrics import Psnr, Ssim, find_finite, spread

WORST_FACES = 8
_SPREAD_RANGE = (1e-6, 1e6)  # where an exploded or dead output is written as: finite, so that JSON can hold it


@dataclass(frozen=True)
class Accuracy:
    """How an engine compares with FP32 on ``faces`` faces.

    ``figures`` are those of the registry, by key: ``ssim_drop`` is 1 - ``ssim``; the plain names are means over faces,
    ``*_worst`` and ``*_min`` the worst face; those that were not measured are None. ``spread_ratio_worst`` is the ratio
    farthest from 1. ``worst_faces`` are the indices of lowest SSIM, the worst first. ``nonfinite`` counts faces with
    NaN or infinity; these score SSIM 0, PSNR 0 dB and cosine 0, and are black for the perceptual distance.
    """

    faces: int
    figures: Mapping[str, float | None]
    spread_ratio_worst: float
    nonfinite: int
    worst_faces: tuple[int, ...]
    judged_by: Mapping[str, str] = field(default_factory=dict)
    """By metric what measured: its files' digests, and how many faces where it was not all."""

    def __getitem__(self, key: str) -> float:
        """The figure ``key``. Raises KeyError where it was not measured."""
        measured = self.figures.get(key)
        if measured is None:
            raise KeyError(key)
        return measured

    @property
    def ssim_drop(self) -> float:
        """Mean SSIM that the engine loses: what is chosen by."""
        return self["ssim_drop"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; none is NaN or infinite."""
        return {
            "faces": self.faces,
            **self.figures,
            "spread_ratio_worst": self.spread_ratio_worst,
            "nonfinite": self.nonfinite,
            "worst_faces": list(self.worst_faces),
            "judged_by": dict(self.judged_by),
        }


def judge(reference: NDArray[Any], candidate: NDArray[Any], metrics: Sequence[Metric] = (Ssim(), Psnr())) -> Accuracy:
    """Compare an engine's pictures with those of the FP32 model on the same faces.

    Args:
        reference: FP32's pictures [N,H,W,3], meant to lie in [0,1] (`decode_nchw`); sides of at least 11 px.
        candidate: the engine's, of the same shape. Both are clipped to [0,1], after the spread has been taken.
        metrics: what is measured; `Ssim` is among them.

    Raises:
        ModelError: the FP32 model itself gives NaN or infinity, so that there is nothing to compare with.
        ValueError: the shapes differ or are not [N,H,W,3], or there is no face.
    """
    _check(reference, candidate)
    sound = find_finite(candidate)
    ratios = _clip_ratios(reference, candidate, sound)
    by_metric = measure(metrics, reference.clip(0, 1), candidate)
    return Accuracy(
        faces=len(reference),
        figures=pool_figures(by_metric),
        spread_ratio_worst=float(ratios[np.abs(np.log(ratios)).argmax()]),
        nonfinite=int((~sound).sum()),
        worst_faces=tuple(int(i) for i in np.argsort(by_metric[Ssim.name], kind="stable")[:WORST_FACES]),
        judged_by={metric.name: metric.describe_faces(*reference.shape[:3]) for metric in metrics},
    )


def measure(metrics: Sequence[Metric], reference: Pictures, candidate: NDArray[Any]) -> dict[str, PerFace]:
    """Each metric's values [N] of ``candidate``, which is clipped to [0,1], against ``reference``, which lies in it."""
    sound = find_finite(candidate)
    clipped: Pictures = np.where(sound[:, None, None, None], candidate, 0).clip(0, 1)
    by_metric = {}
    for metric in metrics:
        values = metric.per_face(reference, clipped)
        by_metric[metric.name] = values if metric.broken is None else np.where(sound, values, metric.broken)
    return by_metric


def pool_figures(by_metric: Mapping[str, PerFace]) -> dict[str, float | None]:
    """All figures by key from the values [N] of each metric; None for metrics that were not measured."""
    return {
        figure.key: figure.pool(by_metric[metric.name]) if metric.name in by_metric else None
        for metric in registry.METRICS
        for figure in metric.figures
    }


def _check(reference: NDArray[Any], candidate: NDArray[Any]) -> None:
    if reference.shape != candidate.shape or reference.ndim != 4 or reference.shape[-1] != 3 or not len(reference):
        raise ValueError(f"pictures must both be [N,H,W,3] with N > 0, not {reference.shape} and {candidate.shape}")
    broken = np.nonzero(~find_finite(reference))[0]
    if len(broken):
        raise ModelError(
            f"the FP32 model itself gives NaN or infinity on {len(broken)} of {len(reference)} faces "
            f"(the first is number {broken[0]})",
            "Check the model's weights, and that its inputs have the range and order that it was trained with.",
        )


def _clip_ratios(reference: NDArray[Any], candidate: NDArray[Any], sound: NDArray[np.bool_]) -> PerFace:
    """Spread ratios of unclipped pictures, since clipping would hide an output that has blown up; broken ones get 0."""
    ratios = np.zeros(len(reference))
    with np.errstate(over="ignore"):
        ratios[sound] = spread(reference[sound], candidate[sound])
    return ratios.clip(*_SPREAD_RANGE)
