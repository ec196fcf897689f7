"""How much of a swapped crop goes into the photo at each pixel: 1 in the middle of the face, 0 at the crop's border.

All masks are exactly 0 at the border, so that a paste leaves no seam, and rise along a smooth step, so that none shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.align import TEMPLATES

Mask = NDArray[np.float32]
"""[S,S] float32 in 0..1."""

BOX, ELLIPSE, MODEL = "box", "ellipse", "model"
MASK_KINDS = (BOX, ELLIPSE, MODEL)

# The face in units of the template: interocular distance to both sides, eyes to mouth up and down. Means of adults
# (63 mm between the pupils, 140 mm across the cheeks, 65 mm eyes to mouth, 110 mm eyes to chin), and some margin.
_HALF_WIDTH, _HALF_HEIGHT, _CENTRE_BELOW_EYES = 1.25, 1.5, 0.32


@dataclass(frozen=True)
class MaskSettings:
    """Which mask: ``kind`` of `MASK_KINDS`; ``model`` takes the network's own mask where it gives one, within the box.

    ``blur`` is the width of the soft edge, as a share of half the crop's side. ``padding`` are shares of the side that
    stay out at the top, right, bottom and left.
    """

    kind: str = MODEL
    blur: float = 0.3
    padding: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.kind not in MASK_KINDS:
            raise BadInputError(f"there is no mask {self.kind!r}", f"use one of {', '.join(MASK_KINDS)}")
        if not 0 <= self.blur <= 1:
            raise BadInputError(f"a blur of {self.blur:g} is not from 0 to 1", "use for example 0.3")
        top, right, bottom, left = self.padding
        if min(self.padding) < 0 or max(top + bottom, left + right) >= 1:
            raise BadInputError(
                "the padding leaves nothing of the crop", "use shares of the side that add up to less than 1"
            )


def make_mask(settings: MaskSettings, template: str, size: int, own: Mask | None = None) -> Mask:
    """The mask [size,size] for a crop of ``template``; ``own`` [H,W] is what the network gave, of any size."""
    mask = _make_static(settings, template, size)
    if own is None or settings.kind != MODEL:
        return mask
    own = cv2.resize(own, (size, size), interpolation=cv2.INTER_LINEAR) if own.shape != mask.shape else own
    return np.minimum(mask, np.clip(np.nan_to_num(own), 0, 1))


def find_support(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right and bottom (exclusive) of where ``mask`` is not 0; all 0 where it is 0 everywhere."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@lru_cache(maxsize=32)
def _make_static(settings: MaskSettings, template: str, size: int) -> Mask:
    mask = _make_box(settings, size)
    if settings.kind == ELLIPSE:
        mask = np.minimum(mask, _make_ellipse(settings, template, size))
    mask.flags.writeable = False
    return mask


def _make_box(settings: MaskSettings, size: int) -> Mask:
    top, right, bottom, left = (share * size for share in settings.padding)
    ramp = max(settings.blur * size / 2, 1.0)
    return np.outer(_rise(size, top, bottom, ramp), _rise(size, left, right, ramp)).astype(np.float32)


def _rise(size: int, before: float, behind: float, ramp: float) -> NDArray[np.float64]:
    """Along one side: 0 at the first and last pixel and in the padding, 1 from ``ramp`` pixels further in."""
    place = np.arange(size)
    inside = np.minimum(place - before, size - 1 - behind - place)
    return _smooth_step(inside / ramp)


def _make_ellipse(settings: MaskSettings, template: str, size: int) -> Mask:
    points = TEMPLATES[template].astype(np.float64) * size
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    width = _HALF_WIDTH * np.linalg.norm(points[1] - points[0])
    height = _HALF_HEIGHT * np.linalg.norm(mouth - eyes)
    centre = eyes + _CENTRE_BELOW_EYES * (mouth - eyes)
    across, down = np.meshgrid((np.arange(size) - centre[0]) / width, (np.arange(size) - centre[1]) / height)
    inside = 1 - np.hypot(across, down)
    return np.asarray(_smooth_step(inside / max(settings.blur, 1 / size)), np.float32)


def _smooth_step(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
