"""A set of aligned faces: crops, embeddings and names in one order, and what was left out, with the reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.crops import Crops
from trt_facefusion.sampling import spread

MIN_FACE_PX = 48
MIN_FACES = 32
ADVISED_FACES = 200

KINDS = {
    "unreadable": "unreadable",
    "too_large": "too large",
    "no_face": "without a face",
    "tiny_face": "with too small a face",
    "duplicate": "duplicate",
    "not_square": "not square",
}
"""Why a photo is skipped: the key of `Skipped.kind`, and the words for it."""


@dataclass(frozen=True)
class Skipped:
    """A photo that was left out: its name relative to the folder, the reason as a sentence, and its kind (`KINDS`)."""

    file: str
    reason: str
    kind: str


def digest_lines(parts: Iterable[str]) -> str:
    """sha256 of ``parts``, one a line."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces of one folder.

    ``crops`` [N,size,size,3] uint8 RGB, read like an array; ``embeddings`` [N,dim] float32, raw; ``files`` relative
    names; ``digests`` sha256 of each file; ``settings`` digest of all that turns a photo into a crop;
    ``folder_digest`` what the function of that name gives for the whole folder; ``note`` what of the folder was not
    looked at, as one line, or None.
    """

    crops: Crops
    embeddings: NDArray[np.float32]
    files: tuple[str, ...]
    digests: tuple[str, ...]
    template: str
    size: int
    settings: str
    folder_digest: str
    skipped: tuple[Skipped, ...] = ()
    note: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def digest(self) -> str:
        """One sha256 over these faces, in this order, and the settings: the key of whatever is made from them."""
        return digest_lines([self.settings, *self.digests])

    def subset(self, indices: Iterable[int] | NDArray[np.int64]) -> FaceSet:
        """The faces at ``indices``, in that order; what was skipped stays on record."""
        positions = np.asarray(list(indices), np.int64)
        return replace(
            self,
            crops=self.crops.subset(positions),
            embeddings=self.embeddings[positions],
            files=tuple(self.files[i] for i in positions),
            digests=tuple(self.digests[i] for i in positions),
        )

    def thin(self, limit: int) -> FaceSet:
        """At most ``limit`` faces (0: all), evenly spread over the set."""
        return self if limit <= 0 or len(self) <= limit else self.subset(spread(len(self), limit))

    def cut_crops(self, template: str, size: int) -> Crops:
        """The same faces in the same order, cut with another ``template`` [N,size,size,3] uint8 RGB."""
        return self.crops.cut_for(template, size)

    def count_skipped(self) -> dict[str, int]:
        """How many photos were skipped, by kind; kinds that did not occur are left out."""
        counts = Counter(skip.kind for skip in self.skipped)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}


def require_enough(faces: FaceSet, minimum: int = MIN_FACES, advised: int = ADVISED_FACES) -> str | None:
    """A warning where there are fewer than ``advised`` faces, else None.

    Raises:
        FacesError: fewer than ``minimum`` faces; says why photos were skipped and how many to add.
    """
    count = len(faces)
    skipped = ", ".join(f"{number} {KINDS[kind]}" for kind, number in faces.count_skipped().items())
    why = f" ({len(faces.skipped)} skipped: {skipped})" if skipped else ""
    photos = "photo" if minimum - count == 1 else "photos"
    if count < minimum:
        raise FacesError(
            f"only {count} usable {'face' if count == 1 else 'faces'}, at least {minimum} are needed{why}",
            f"Add at least {minimum - count} {photos} that each show another clear face of {MIN_FACE_PX} px or more; "
            f"{advised} varied faces (light, skin tone, age, pose) are better. If the photos are aligned crops, "
            "say so with --aligned.",
        )
    if count < advised:
        return (
            f"{count} usable faces{why}: {advised} or more, varied in light, skin tone, age and pose, "
            "give safer INT8 ranges"
        )
    return None
