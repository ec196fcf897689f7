"""A swapped crop back into its photo, touching nothing but the pixels on which its mask lies.

The crop is warped into the rectangle that the mask's support takes in the photo and nowhere else: the cost is that of
the face, not that of the photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.swap.masks import Mask, find_support
from trt_facefusion.swap.photo import CMYK, GREY, Photo, rgb_to_cmyk, to_grey

_SHRINKS = 1.25
"""Pixels of the crop to one of the photo from which on the crop is blurred before it is sampled, against aliasing."""
_ALIGNED = 2
"""Regions begin at even pixels, so that halved chroma planes of a video have whole samples of them."""


@dataclass(frozen=True)
class Region:
    """A rectangle of a photo in pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.right <= self.left or self.bottom <= self.top

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Patch:
    """A crop and its mask as they lie in the photo: ``colours`` [h,w,3] 0..255 RGB, ``weights`` [h,w] in 0..1."""

    region: Region
    colours: NDArray[Any]
    weights: NDArray[np.float32]


def find_region(matrix: NDArray[np.float64], support: tuple[int, int, int, int], height: int, width: int) -> Region:
    """The pixels of a photo [height,width] on which ``support`` (left, top, right, bottom) of a crop lies.

    ``matrix`` [2,3] leads from the photo to the crop.
    """
    left, top, right, bottom = support
    left, top = left - 1, top - 1  # between the last pixel without weight and the first with some, it rises
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64)
    back = cv2.invertAffineTransform(matrix)
    places = corners @ back[:, :2].T + back[:, 2]
    low, high = np.floor(places.min(0)).astype(int) - 1, np.ceil(places.max(0)).astype(int) + 2
    low, high = np.maximum(low, 0) // _ALIGNED * _ALIGNED, -(-high // _ALIGNED) * _ALIGNED
    return Region(int(low[0]), int(low[1]), min(int(high[0]), width), min(int(high[1]), height))


def warp_patch(
    picture: NDArray[np.float32], mask: Mask, matrix: NDArray[np.float64], height: int, width: int, *, deep: bool
) -> Patch | None:
    """A ``picture`` [S,S,3] (RGB, 0..1) and its ``mask`` [S,S] as they lie in a photo; None beyond its borders.

    Args:
        picture: the crop; values beyond 0..1 are clipped.
        mask: how much of it counts.
        matrix: [2,3], from the photo to the crop.
        height: of the photo.
        width: of the photo.
        deep: the photo has 16 bits: colours stay float32. Otherwise they are rounded to uint8.
    """
    region = find_region(matrix, find_support(mask), height, width)
    if region.empty:
        return None
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    if scale > _SHRINKS:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5 * (scale - 1) + 0.1)
    back = cv2.invertAffineTransform(matrix)
    back[:, 2] -= (region.left, region.top)
    size = (region.right - region.left, region.bottom - region.top)
    return _warp_deep(region, picture, mask, back, size) if deep else _warp_bytes(region, picture, mask, back, size)


def _warp_bytes(
    region: Region, picture: NDArray[np.float32], mask: Mask, back: NDArray[np.float64], size: tuple[int, int]
) -> Patch:
    """Colours and mask warped together: four bytes a pixel take OpenCV less than half the time of three and a float."""
    stacked = cv2.convertScaleAbs(np.dstack([np.maximum(picture, 0), mask]), alpha=255)
    warped = cv2.warpAffine(stacked, back, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    weights = cv2.extractChannel(warped, 3).astype(np.float32)
    return Patch(region, cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.multiply(weights, 1 / 255, dtype=np.float32))


def _warp_deep(
    region: Region, picture: NDArray[np.float32], mask: Mask, back: NDArray[np.float64], size: tuple[int, int]
) -> Patch:
    """In float32, for photos of 16 bits."""
    stacked = np.dstack([np.clip(picture, 0, 1) * np.float32(255), mask])
    warped = cv2.warpAffine(stacked, back, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return Patch(region, np.ascontiguousarray(warped[..., :3]), np.ascontiguousarray(warped[..., 3]))


def blend_rgb8(pixels: NDArray[np.uint8], patch: Patch) -> None:
    """Blend ``patch`` into ``pixels`` [H,W,3] uint8 RGB; where its weight is 0 they stay bit by bit."""
    region = pixels[patch.region.rows, patch.region.columns]
    under = np.ascontiguousarray(region)
    region[:] = cv2.blendLinear(under, patch.colours, 1 - patch.weights, patch.weights)


def blend_photo(photo: Photo, patch: Patch) -> None:
    """Blend ``patch`` into the pixels of ``photo``, in its own channels and depth."""
    if photo.full == 255 and photo.channels not in {GREY, CMYK}:
        blend_rgb8(photo.pixels, patch)
        return
    rows, columns = patch.region.rows, patch.region.columns
    region = photo.pixels[rows, columns]
    touched = patch.weights > 0
    if photo.channels == CMYK:
        under = photo.region_rgb8(rows, columns).astype(np.float32)
        blended: NDArray[Any] = rgb_to_cmyk(_mix(under, patch.colours, patch.weights), region[..., 3])
    else:
        unit = photo.full / 255
        colours = patch.colours.astype(np.float32)
        colours = to_grey(colours) if photo.channels == GREY else colours
        blended = _mix(region.astype(np.float32), colours * np.float32(unit), patch.weights)
        blended = np.rint(np.clip(blended, 0, photo.full)).astype(photo.pixels.dtype)
    region[touched] = blended[touched]


def _mix(under: NDArray[np.float32], over: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    weight = weights[..., None]
    return np.asarray(under + (over - under) * weight, np.float32)
