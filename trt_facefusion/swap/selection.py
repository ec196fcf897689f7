"""Which of the faces in a picture are swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.detector import Face
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.split import measure_distances
from trt_facefusion.swap.identity import embed_faces
from trt_facefusion.types import Image

LARGEST, ALL = "largest", "all"
FACES = (LARGEST, ALL)


@dataclass(frozen=True, eq=False)
class FaceSelection:
    """``faces`` of `FACES`; with ``people`` [N,dim] (comparable embeddings) of those only who are one of them.

    A face is one of them from ``distance`` on downwards (L2).
    """

    faces: str = LARGEST
    people: NDArray[np.float32] | None = None
    distance: float = 0.0

    def __post_init__(self) -> None:
        if self.faces not in FACES:
            raise BadInputError(f"faces cannot be {self.faces!r}", f"use {' or '.join(FACES)}")

    def select(self, image: Image, faces: Sequence[Face], embedder: Embedder) -> list[Face]:
        """Those of ``faces`` (the largest first) in ``image`` [H,W,3] that are swapped."""
        if self.people is not None and faces:
            distances = measure_distances(embed_faces(image, faces, embedder), self.people).min(axis=1)
            faces = [face for face, distance in zip(faces, distances, strict=True) if distance <= self.distance]
        return list(faces) if self.faces == ALL else list(faces[:1])


def choose_distance(embedder: Embedder) -> float:
    """The distance half-way between surely one person and surely two."""
    return (embedder.same_person + embedder.other_person) / 2
