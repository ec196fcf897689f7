"""Which photos of a set are almost the same picture, and roughly how many people it shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.duplicates import VIEWS
from trt_facefusion.faces.split import measure_distances

# Frames of one video move more than copies do. Two photos of one person taken on other days reach neither limit.
_FRAME_LIKENESS, _FRAME_DISTANCE = 0.9, 0.5
_ROWS = 512


def group_copies(
    thumbnails: tuple[NDArray[np.float32], NDArray[np.float32]], comparable: NDArray[np.float32], same_person: float
) -> NDArray[np.int64]:
    """For each photo the number of the group of near copies that it belongs to [N]; most are alone in theirs.

    Near copies are pictures that `read_faces` would leave out (normalised correlation of the whole picture or of the
    crop), and crops alike to 0.9 whose embeddings are also nearer than half of ``same_person``. Copies of copies belong
    together, so that the groups do not depend on the order of the photos.

    Args:
        thumbnails: of the whole pictures and of the crops, rows as `thumbnail` gives them.
        comparable: embeddings [N,D] in the space that ``same_person`` speaks of.
        same_person: L2 distance under which two faces count as one person.
    """
    count = len(comparable)
    parent = np.arange(count)
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        picture, crop = (known[rows] @ known.T for known in thumbnails)
        alike = (picture > VIEWS[0][1]) | (crop > VIEWS[1][1])
        alike |= (crop > _FRAME_LIKENESS) & (
            measure_distances(comparable[rows], comparable) < same_person * _FRAME_DISTANCE
        )
        for row, other in zip(*np.nonzero(alike), strict=True):
            _join(parent, start + int(row), int(other))
    roots = np.array([_root(parent, index) for index in range(count)], np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _root(parent: NDArray[np.int64], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index


def _join(parent: NDArray[np.int64], one: int, other: int) -> None:
    first, second = sorted((_root(parent, one), _root(parent, other)))
    parent[second] = first


def group_people(comparable: NDArray[np.float32], same_person: float) -> NDArray[np.int64]:
    """A number for each face [N], equal for faces that look like one person.

    A face joins the nearest of the people met so far whose mean face is nearer than ``same_person``: unlike chains of
    nearest neighbours, that does not tie look-alikes of look-alikes into one. It depends a little on the order of the
    faces; the figures made of it are rounded for a person to read.
    """
    sums: list[NDArray[np.float64]] = []
    sizes: list[int] = []
    labels = np.zeros(len(comparable), np.int64)
    for index, face in enumerate(comparable.astype(np.float64)):
        apart = [float(np.linalg.norm(total / size - face)) for total, size in zip(sums, sizes, strict=True)]
        nearest = int(np.argmin(apart)) if apart else -1
        if apart and apart[nearest] < same_person * _MEAN_FACTOR:
            sums[nearest] += face
            sizes[nearest] += 1
        else:
            nearest = len(sums)
            sums.append(face.copy())
            sizes.append(1)
        labels[index] = nearest
    return labels


# Half a person's spread lies between a face and the mean of several: 0.5 / sqrt(2), and a little for small groups.
_MEAN_FACTOR = 0.75
