"""A folder of photos, each of them measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.crops import Crops
from trt_facefusion.faces.curation import chip as chips
from trt_facefusion.faces.curation.copies import group_copies, group_people
from trt_facefusion.faces.curation.measure import FaceMeasurer, SurveyedPhoto
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.duplicates import VIEWS
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import MIN_FACE_PX, FaceSet, Skipped
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.types import Progress, silent

SMALLER_COPY = 0.8
"""Of the largest face among near copies: up to here a copy is a smaller one, above it a frame or one saved again."""


@dataclass(frozen=True, eq=False)
class Survey:
    """The photos of a folder that show a face, in the order of their content's digest: names and order do not matter.

    ``chips`` [N,128,128,3] uint8, read like an array, are for showing, ``faces`` for feeding a network; ``copies`` [N]
    numbers groups of near copies, ``persons`` [N] people; both exist in memory only.
    """

    faces: FaceSet
    photos: tuple[SurveyedPhoto, ...]
    chips: Crops
    embeddings: NDArray[np.float32]
    copies: NDArray[np.int64]
    persons: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Photos without a usable face, and files that are in the folder twice."""
        return self.faces.skipped

    @cached_property
    def copy_of(self) -> dict[str, str]:
        """Each photo that is a near copy -> the best one of its group, see `pick_best_copies`."""
        best = self.pick_best_copies()
        names = {int(self.copies[index]): self.photos[index].file for index in best}
        originals = set(best)
        return {
            photo.file: names[int(self.copies[index])]
            for index, photo in enumerate(self.photos)
            if index not in originals
        }

    def pick_best_copies(self, among: NDArray[np.int64] | None = None) -> list[int]:
        """Of each group of near copies the best photo, of ``among`` (default: all); singles are their own best.

        Best is the sharpest of those whose face is about as large as the largest: on the chip, which is always of one
        size, a thumbnail looks as sharp as the photo that it was made of.
        """
        groups: dict[int, list[int]] = {}
        for index in range(len(self)) if among is None else among.tolist():
            groups.setdefault(int(self.copies[index]), []).append(index)
        return sorted(self._pick_sharpest(members) for members in groups.values())

    def _pick_sharpest(self, members: list[int]) -> int:
        largest = max(self.photos[index].face_px for index in members)
        large = [index for index in members if self.photos[index].face_px > SMALLER_COPY * largest]
        return max(large, key=lambda index: (self.photos[index].sharpness, -index))

    def subset(self, indices: Sequence[int]) -> Survey:
        """The photos at ``indices``, in that order."""
        positions = np.asarray(indices, np.int64)
        return Survey(
            faces=self.faces.subset(positions),
            photos=tuple(self.photos[index] for index in positions),
            chips=self.chips.subset(positions),
            embeddings=self.embeddings[positions],
            copies=self.copies[positions],
            persons=self.persons[positions],
        )

    @property
    def largest_person(self) -> int:
        """Photos of the person who is in most of them."""
        return max(Counter(self.persons.tolist()).values(), default=0)


def survey_folder(
    folder: Path,
    *,
    embedder: Embedder,
    template: str = chips.TEMPLATE,
    size: int = chips.SIZE,
    aligned: bool = False,
    min_face_px: int = MIN_FACE_PX,
    progress: Progress = silent,
) -> Survey:
    """Read and measure every photo in ``folder``; the arguments are those of `read_faces`.

    Raises:
        FacesError: no such folder, or no photo in it.
    """
    measurer = FaceMeasurer(FaceDetector(), template)
    faces = read_faces(
        folder,
        template=template,
        size=size,
        embedder=embedder,
        aligned=aligned,
        min_face_px=min_face_px,
        detector=measurer.detector,
        keep_copies=True,
        inspect=measurer.measure,
        progress=progress,
    )
    order = np.argsort(np.array(faces.digests, dtype=str), kind="stable")
    faces = faces.subset(order)
    photos = tuple(
        SurveyedPhoto(digest=digest, **measurer.measured[index])
        for index, digest in zip(order, faces.digests, strict=True)
    )
    thumbnails = tuple(
        _stack_rows([measurer.thumbnails[index][view] for index in order], VIEWS[view][0] ** 2) for view in (0, 1)
    )
    comparable = embedder.make_comparable(faces.embeddings)
    return Survey(
        faces=faces,
        photos=photos,
        chips=measurer.chips.subset(order),
        embeddings=comparable,
        copies=group_copies((thumbnails[0], thumbnails[1]), comparable, embedder.same_person),
        persons=group_people(comparable, embedder.same_person),
    )


def _stack_rows(vectors: list[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.stack(vectors) if vectors else np.zeros((0, width), np.float32)
