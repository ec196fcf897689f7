"""The gate: limits that an engine's accuracy must keep before it is stored as good."""

from __future__ import annotations

from dataclasses import dataclass

from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.types import Precision

MAX_SSIM_DROP = {Precision.INT8: 0.01, Precision.FP16: 0.003, Precision.FP32: 0.0005}
"""Mean SSIM that an engine may lose against FP32, as shares of 1."""


@dataclass(frozen=True)
class Verdict:
    """Whether an engine passed; if not, ``reasons`` holds one sentence per limit that it broke."""

    passed: bool
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.passed


@dataclass(frozen=True)
class Gate:
    """Limits on an engine's `Accuracy`. None switches an optional limit off."""

    max_ssim_drop: float
    max_ssim_drop_worst: float | None = None
    max_perceptual: float | None = None
    min_identity: float | None = None
    spread_range: tuple[float, float] = (0.5, 2.0)

    @classmethod
    def default(cls, precision: Precision) -> Gate:
        """The gate that an engine of ``precision`` must pass unless the user sets other limits."""
        return cls(max_ssim_drop=MAX_SSIM_DROP[precision])

    def check(self, accuracy: Accuracy) -> Verdict:
        """Hold ``accuracy`` against the limits; a figure that a limit needs but nobody measured fails it."""
        reasons = [
            *self._finite_and_alive(accuracy),
            *_too_high("the mean SSIM drop", accuracy.ssim_drop, self.max_ssim_drop),
            *_too_high("the SSIM drop of the worst face", accuracy.ssim_drop_worst, self.max_ssim_drop_worst),
            *_too_high("the perceptual distance", accuracy.perceptual, self.max_perceptual),
            *_too_low("the mean identity cosine", accuracy.identity_cosine, self.min_identity),
        ]
        return Verdict(not reasons, tuple(reasons))

    def _finite_and_alive(self, accuracy: Accuracy) -> list[str]:
        reasons = []
        if accuracy.faces == 0:
            reasons.append("no face was judged, at least 1 is needed")
        if accuracy.nonfinite:
            reasons.append(f"{accuracy.nonfinite} of {accuracy.faces} faces hold NaN or infinity, 0 are allowed")
        low, high = self.spread_range
        ratio = accuracy.spread_ratio_worst
        if not low <= ratio <= high:
            what = "has collapsed" if ratio < low else "has blown up"
            reasons.append(
                f"the output {what}: a face spreads {ratio:.3g} times as far as FP32's, {low:g} to {high:g} is allowed"
            )
        return reasons


def _too_high(what: str, value: float | None, limit: float | None) -> list[str]:
    if limit is None or (value is not None and value <= limit):
        return []
    return [_sentence(what, value, f"at most {limit:.4g}", limit)]


def _too_low(what: str, value: float | None, limit: float | None) -> list[str]:
    if limit is None or (value is not None and value >= limit):
        return []
    return [_sentence(what, value, f"at least {limit:.4g}", limit)]


def _sentence(what: str, value: float | None, allowed: str, limit: float) -> str:
    if value is None:
        return f"{what} was not measured, but must be {allowed}"
    shown = f"{value:.4g}"
    if float(shown) == float(f"{limit:.4g}"):  # "0.01 is more than 0.01" would help nobody
        shown = repr(value)
    return f"{what} is {shown}, {allowed} is allowed"
