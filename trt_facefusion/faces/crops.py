"""Aligned crops that are cut again when they are asked for: memory holds some of them, however many photos there are.

The alternative, a temporary file of all crops, would take 73 GiB of disk for 100,000 photos at 512 px, and would leave
faces behind wherever a process is killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.align import Landmarks, align_crop, fit_templates, warp
from trt_facefusion.faces.decode import decode_image
from trt_facefusion.faces.image_file import read_bytes
from trt_facefusion.types import Image

CACHE_BYTES = 256 << 20
"""Crops of one set that stay in memory; 300 faces at 512 px, the most that a build takes unasked, need 225 MiB."""


@dataclass(frozen=True, eq=False)
class Origin:
    """What a crop is cut from: the photo, the sha256 of its content, and where the face is.

    ``landmarks`` [5,2] are in pixels of the upright photo; None where the photo is itself a crop, aligned with the
    template ``aligned_with``.
    """

    path: Path
    digest: str
    landmarks: Landmarks | None
    aligned_with: str

    def cut(self, image: Image, template: str, size: int) -> Image:
        """The crop [size,size,3] of ``image``, the decoded photo.

        Raises:
            ValueError: the landmarks coincide.
        """
        if self.landmarks is not None:
            return align_crop(image, self.landmarks, template, size)
        side = image.shape[1]
        if template != self.aligned_with:
            return warp(image, fit_templates(self.aligned_with, side, template, size), size)
        if side == size:
            return image
        how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        resized: Image = cv2.resize(image, (size, size), interpolation=how)
        return resized


@dataclass(eq=False)
class Crops:
    """The crops of ``origins`` [N,size,size,3] uint8 RGB, read like an array: ``crops[3]``, ``crops[[0, 2]]``.

    The first `CACHE_BYTES` of them that were cut stay in memory, the others are cut from their photo each time. Raises
    `FacesError` where a photo has been changed or taken away since.
    """

    origins: list[Origin]
    template: str
    size: int
    _cached: dict[int, Image] = field(default_factory=dict)
    _others: dict[tuple[str, int], Crops] = field(default_factory=dict)

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N,size,size,3]."""
        return (len(self.origins), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        if isinstance(key, tuple):
            return self[:][key]
        chosen = np.arange(len(self))[np.asarray(key, np.int64) if isinstance(key, list) and not key else key]
        if not chosen.ndim:
            return np.array(self._crop(int(chosen)))
        found = np.empty((*chosen.shape, *self.shape[1:]), np.uint8)
        for place, index in np.ndenumerate(chosen):
            found[place] = self._crop(int(index))
        return found

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("crops are cut when asked for: an array of them is always a copy")
        return np.asarray(self[:], dtype)

    def add(self, origin: Origin, crop: Image) -> None:
        """One more face, whose ``crop`` [size,size,3] has just been cut."""
        self.origins.append(origin)
        self._keep(len(self.origins) - 1, crop)

    def subset(self, indices: Iterable[int] | NDArray[np.int64]) -> Crops:
        """The crops at ``indices``, in that order."""
        chosen = [int(index) for index in indices]
        cached = {new: self._cached[old] for new, old in enumerate(chosen) if old in self._cached}
        return Crops([self.origins[index] for index in chosen], self.template, self.size, cached)

    def cut_for(self, template: str, size: int) -> Crops:
        """The same faces, aligned with another ``template`` [N,size,size,3]."""
        if (template, size) == (self.template, self.size):
            return self
        return self._others.setdefault((template, size), Crops(self.origins, template, size))

    def _crop(self, index: int) -> Image:
        crop = self._cached.get(index)
        if crop is None:
            crop = self._cut(self.origins[index])
            self._keep(index, crop)
        return crop

    def _keep(self, index: int, crop: Image) -> None:
        if (len(self._cached) + 1) * crop.nbytes <= CACHE_BYTES:
            self._cached[index] = crop

    def _cut(self, origin: Origin) -> Image:
        data = read_bytes(origin.path)
        if hashlib.sha256(data).hexdigest() != origin.digest:
            raise FacesError(f"{origin.path.name} was changed while it was in use", "Run the same command again.")
        return origin.cut(decode_image(data, origin.path.name), self.template, self.size)
