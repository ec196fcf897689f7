"""Two sides of one folder: faces to calibrate on and faces to verify on, with no person on both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError

MIN_VERIFICATION = 8
_ROWS = 512


def measure_distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """L2 distances [N,M] between the rows of ``a`` [N,D] and ``b`` [M,D]."""
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    return np.asarray(np.sqrt(np.maximum(squared, 0)), np.float32)


def find_smallest_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The smallest L2 distance between a row of ``a`` [N,D] and a row of ``b`` [M,D]; infinity where one is empty."""
    if not len(a) or not len(b):
        return float("inf")
    return min(float(measure_distances(a[i : i + _ROWS], b).min()) for i in range(0, len(a), _ROWS))


def group_identities(embeddings: NDArray[np.float32], same_person: float = 0.5) -> list[NDArray[np.int64]]:
    """Indices of ``embeddings`` [N,D] in groups: faces nearer than ``same_person`` (L2), or tied by others, share one.

    Groups come in the order of their first face.
    """
    parent = np.arange(len(embeddings))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index

    for start in range(0, len(embeddings), _ROWS):
        near = measure_distances(embeddings[start : start + _ROWS], embeddings[start:]) < same_person
        for row, column in zip(*np.nonzero(near), strict=True):
            one, other = root(start + int(row)), root(start + int(column))
            parent[max(one, other)] = min(one, other)
    roots = np.array([root(i) for i in range(len(embeddings))], np.int64)
    return [np.nonzero(roots == first)[0] for first in np.unique(roots)]


def split_by_identity(
    embeddings: NDArray[np.float32], holdout: float = 0.2, same_person: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to calibrate on and to verify on, both sorted, such that nobody is on both sides.

    Args:
        embeddings: [N,D], in the space that ``same_person`` speaks of (`Embedder.comparable`).
        holdout: share of the faces to verify on; at least 8 faces where that leaves as many to calibrate on.
        same_person: L2 distance under which two faces count as one person.
        seed: decides who is held out.

    Chains of look-alikes can tie most of a folder into one group. Then the distance is tightened in steps, to 60 % of
    ``same_person`` at most, until enough faces can be held out; `find_smallest_distance` tells what came of it.

    Raises:
        FacesError: all faces look like one person, so that nobody can be held out.
    """
    count = len(embeddings)
    wanted = min(max(round(holdout * count), MIN_VERIFICATION), count // 2)
    best = np.zeros(0, np.int64)
    for factor in (1.0, 0.9, 0.8, 0.7, 0.6):
        held_out = _hold_out(group_identities(embeddings, same_person * factor), wanted, seed)
        if len(held_out) > len(best):
            best = held_out
        if len(best) >= 0.75 * wanted:
            break
    if not len(best):
        raise FacesError(
            f"the {count} faces cannot be split into calibration and verification: they all look like one person",
            "Add photos of other people, or name a folder of other people to verify on with --eval.",
        )
    return np.setdiff1d(np.arange(count), best), best


def _hold_out(groups: list[NDArray[np.int64]], wanted: int, seed: int) -> NDArray[np.int64]:
    """Whole groups in a random order, as long as they fit into ``wanted`` faces."""
    taken: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    room = wanted
    for index in np.random.default_rng(seed).permutation(len(groups)):
        if len(groups[index]) <= room:
            taken.append(groups[index])
            room -= len(groups[index])
    return np.sort(np.concatenate(taken))
