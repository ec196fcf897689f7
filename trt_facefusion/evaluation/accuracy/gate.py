"""Limits that an engine's figures must keep before it is stored as good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.metric import Figure, Limit
from trt_facefusion.types import Precision

MAX_SSIM_DROP = {Precision.INT8: 0.01, Precision.FP16: 0.003, Precision.FP32: 0.0005}
"""Mean SSIM that an engine may lose against FP32, as shares of 1."""

_ALWAYS_WRITTEN = ("max_ssim_drop", "max_ssim_drop_worst", "max_perceptual", "min_identity")
"""Limits that keys and manifests name whether or not they are set. Others are written only where they are set, so that
a new metric leaves the keys of engines that exist as they are."""


@dataclass(frozen=True)
class Verdict:
    """Whether an engine passed; if not, ``reasons`` holds one sentence per limit that it broke."""

    passed: bool
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.passed


@dataclass(frozen=True, repr=False)
class Limits:
    """Limits on figures, by their names (`metric.Limit`): the gate of an engine, and the budget of a plan search.

    ``spread_range`` is what a face's spread may be in those of FP32's, see `Accuracy.spread_ratio_worst`.
    """

    named: Mapping[str, float] = field(default_factory=dict)
    spread_range: tuple[float, float] = (0.5, 2.0)

    @classmethod
    def default(cls, precision: Precision) -> Limits:
        """The limits that an engine of ``precision`` must keep unless the user sets others."""
        return cls({"max_ssim_drop": MAX_SSIM_DROP[precision]})

    def __getitem__(self, name: str) -> float:
        return self.named[name]

    def changed(self, named: Mapping[str, float]) -> Limits:
        """With the limits ``named`` beside these, or in their place."""
        return replace(self, named={**self.named, **named})

    def set_limits(self) -> Iterator[tuple[Figure, Limit, float]]:
        """Figure, limit and value of each that is set, in the order of the registry."""
        for figure, limit in registry.iterate_limits():
            if limit.name in self.named:
                yield figure, limit, self.named[limit.name]

    def load(self, figures: Mapping[str, float | None]) -> float:
        """The share of what is allowed that ``figures`` (by key) spend: above 1 a limit is broken.

        It is that of the limit which is nearest to breaking. A figure that a limit needs but nobody measured spends
        more than there is.
        """
        return max(figure.spent(figures.get(figure.key), limit) for figure, _, limit in self.set_limits())

    def check(self, accuracy: Accuracy) -> Verdict:
        """Hold ``accuracy`` against the limits; a figure that a limit needs but nobody measured fails it."""
        reasons = self._check_finite_and_alive(accuracy)
        for figure, limit, allowed in self.set_limits():
            measured = accuracy.figures.get(figure.key)
            if not figure.keeps(measured, allowed):
                reasons.append(_explain_broken(limit, measured, allowed))
        return Verdict(not reasons, tuple(reasons))

    def _check_finite_and_alive(self, accuracy: Accuracy) -> list[str]:
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

    def on_figures(self) -> dict[str, float | None]:
        """The limits on figures by name, for JSON; None for those that are not set."""
        later = sorted(self.named.keys() - set(_ALWAYS_WRITTEN))
        return {name: self.named.get(name) for name in (*_ALWAYS_WRITTEN, *later)}

    def as_dict(self) -> dict[str, object]:
        """All limits, for a manifest."""
        later = self.on_figures()
        first = {name: later.pop(name) for name in _ALWAYS_WRITTEN}
        return {**first, "spread_range": self.spread_range, **later}

    def __repr__(self) -> str:
        """Part of the keys of stored engines: the text of what exists must stay as it is."""
        return f"Gate({', '.join(f'{name}={bound!r}' for name, bound in self.as_dict().items())})"


def _explain_broken(limit: Limit, measured: float | None, allowed: float) -> str:
    bound = f"{limit.bound} {allowed:.4g}"
    if measured is None:
        return f"{limit.subject} was not measured, but must be {bound}"
    shown = f"{measured:.4g}"
    if float(shown) == float(f"{allowed:.4g}"):  # "0.01 is more than 0.01" would help nobody
        shown = repr(measured)
    return f"{limit.subject} is {shown}, {bound} is allowed"
