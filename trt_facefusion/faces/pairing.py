"""Who lends a face to whom: every target gets another person's source, as in a real swap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.split import measure_distances


def pair_across_people(embeddings: NDArray[np.float32], seed: int, other_person: float = 0.6) -> NDArray[np.int64]:
    """For each target the index [N] of a source that shows another person.

    Each face serves as source exactly once, farther than ``other_person`` (L2) from its target, wherever swapping two
    sources of a random order can achieve that. A target for which it cannot gets the face farthest from it, which then
    serves more than once.

    Args:
        embeddings: [N,D], in the space that ``other_person`` speaks of (`Embedder.comparable`).
        seed: the same seed gives the same pairs.
        other_person: L2 distance over which two faces surely show two people.

    Raises:
        FacesError: fewer than two faces.
    """
    count = len(embeddings)
    if count < 2:
        raise FacesError(
            f"a swap needs two people, but there is {count} face", "Add photos of at least one other person."
        )
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(count)
    good = _StrangerTest(embeddings, other_person)
    for target in range(count):
        if not good(target, pairs[target : target + 1])[0]:
            _repair(pairs, target, good, rng)
    for target in range(count):
        if not good(target, pairs[target : target + 1])[0]:
            pairs[target] = int(measure_distances(embeddings[target : target + 1], embeddings)[0].argmax())
            if pairs[target] == target:  # copies of one picture: all distances are zero
                pairs[target] = (target + 1) % count
    return pairs


class _StrangerTest:
    """Whether faces show another person than a given one."""

    def __init__(self, embeddings: NDArray[np.float32], other_person: float) -> None:
        self.embeddings = embeddings
        self.other_person = other_person

    def __call__(self, face: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
        far = measure_distances(self.embeddings[face : face + 1], self.embeddings[others])[0] > self.other_person
        return np.asarray(far & (others != face))


def _repair(pairs: NDArray[np.int64], target: int, good: _StrangerTest, rng: np.random.Generator) -> None:
    """Swap the source of ``target`` with that of another target where both are right afterwards."""
    fits_here = good(target, pairs)
    candidates = np.nonzero(fits_here & good(int(pairs[target]), np.arange(len(pairs))))[0]
    if len(candidates):
        other = int(rng.choice(candidates))
        pairs[target], pairs[other] = pairs[other], pairs[target]
