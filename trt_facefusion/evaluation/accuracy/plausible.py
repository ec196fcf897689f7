"""Do a network's own pictures look as if it was fed rightly? Figures of pictures, before anything is quantised."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.evaluation.accuracy.metric import Pictures
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim

SATURATED = 0.25
"""Share of values at the ends of the range, beyond what the crops themselves have: more is no face."""
FLAT = 0.01
"""Standard deviation within a picture whose values are 0..1; a crop of a face has 0.15 to 0.3."""
RESEMBLES = 0.8
"""Resemblance above which no other description is tried."""
FAR_BETTER = 0.2
LEAST_BETTER = 0.7
"""What another description must gain, and what it must reach, to be worth a word."""

_END = 0.5 / 255
_SIDE_PX = 32


@dataclass(frozen=True)
class Look:
    """What pictures look like, as means over faces.

    ``saturated`` is the share of values at 0 or 1 (or beyond) less that of the crops, ``spread`` the standard deviation
    within a picture, ``resemblance`` the SSIM with the target crop where both are 32 px wide: colour and coarse form.
    For a network that takes an identity, ``like_source`` and ``like_target`` are the cosines of the pictures' identity
    with that of the source and of the target.
    """

    saturated: float
    spread: float
    resemblance: float
    like_source: float | None = None
    like_target: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def wrong(self) -> tuple[str, ...]:
        """What no picture of a face has, as parts of a sentence."""
        parts = []
        if self.saturated > SATURATED:
            parts.append(f"{self.saturated:.0%} of the pixel values are saturated")
        if self.spread < FLAT:
            parts.append(f"they are flat (standard deviation {255 * self.spread:.1f} of 255 levels)")
        return tuple(parts)

    @property
    def suspicious(self) -> bool:
        """Whether it is worth looking at other descriptions of the inputs."""
        return bool(self.wrong) or self.resemblance < RESEMBLES

    def far_better_than(self, other: Look) -> bool:
        """Whether pictures like these say that the description behind ``other`` is wrong."""
        return self.resemblance >= max(LEAST_BETTER, other.resemblance + FAR_BETTER)


def look(pictures: NDArray[Any], crops: NDArray[np.uint8]) -> Look:
    """The figures of pictures [N,H,W,3], nominally in 0..1, that were made of the target crops [N,S,S,3] uint8 RGB."""
    values = np.nan_to_num(pictures, posinf=1.0, neginf=0.0)
    targets = crops.astype(np.float32) / 255
    return Look(
        saturated=max(_measure_ends(values) - _measure_ends(targets), 0.0),
        spread=float(values.clip(0, 1).std(axis=(1, 2)).mean()),
        resemblance=float(measure_ssim(_shrink(targets), _shrink(values.clip(0, 1))).mean()),
    )


def _measure_ends(values: Pictures) -> float:
    return float(((values <= _END) | (values >= 1 - _END)).mean())


def _shrink(pictures: Pictures) -> Pictures:
    size = (_SIDE_PX, _SIDE_PX)
    return np.stack([cv2.resize(p.astype(np.float32), size, interpolation=cv2.INTER_AREA) for p in pictures])
