"""Which photos are copies of one picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.types import Image

VIEWS = ((32, 0.97), (16, 0.96))
"""Thumbnail side, and the correlation from which on it is a copy: whole picture, crop. See `CopyFinder`."""

CLEARLY_LARGER = 1.1
"""From how many times the size of the face on a copy is the better one: saving again moves the box by some percent."""


@dataclass
class CopyFinder:
    """Finds copies of a picture: saved again, resized, brightened, turned to grey, or cut out differently.

    Two thumbnails are compared by normalised correlation. The whole picture at 32x32: of 749 different portraits the
    nearest pair reaches 0.948; copies at 0.7 of the size and JPEG quality 50, 15 % brighter or with gamma 1.6 stay
    above 0.981. The aligned crop at 16x16, for copies with other edges: the nearest pair reaches 0.944, the same copies
    aligned 1.5 px off stay above 0.961. A perceptual hash of 64 bits cannot tell aligned faces apart, and an embedding
    would also take two photos of one person for copies.

    5 kB for each of at most ``capacity`` photos; untouched pages cost no memory, so the room is taken at once.
    """

    capacity: int
    count: int = 0
    thumbnails: list[NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        self.thumbnails = [np.empty((self.capacity, side * side), np.float32) for side, _ in VIEWS]

    def find(self, image: Image, crop: Image) -> int | None:
        """The number of an earlier picture that this is a copy of, or None; `add` takes it in."""
        for known, picture, (side, limit) in zip(self.thumbnails, (image, crop), VIEWS, strict=True):
            known[self.count] = make_thumbnail(picture, side)
            likeness = known[: self.count] @ known[self.count]
            if self.count and likeness.max() > limit:
                return int(likeness.argmax())
        return None

    def add(self, image: Image, crop: Image) -> None:
        """Take a picture in: the next number is its."""
        for known, picture, (side, _) in zip(self.thumbnails, (image, crop), VIEWS, strict=True):
            known[self.count] = make_thumbnail(picture, side)
        self.count += 1


def make_thumbnail(picture: Image, side: int) -> NDArray[np.float32]:
    """Grey values [side*side] with mean 0 and length 1; all 0 for a flat picture."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    values = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)
