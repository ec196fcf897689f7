"""A folder of photos, each of them measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.crops import Crops
from trt_facefusion.faces.curation import chip as chips
from trt_facefusion.faces.curation.copies import group_copies, group_people
from trt_facefusion.faces.curation.covering import detect_covers
from trt_facefusion.faces.curation.light import Exposure, measure_exposure, measure_sharpness
from trt_facefusion.faces.curation.pose import Pose, estimate_pose
from trt_facefusion.faces.curation.tone import Tone, measure_tone
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.duplicates import VIEWS, make_thumbnail
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import MIN_FACE_PX, FaceSet, Skipped
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.faces.reader import InspectedFace
from trt_facefusion.types import Progress, silent

COVERING_YAW = 40.0
"""Degrees: a face that is turned farther hides an eye by itself, so no hint of a cover is given."""

SMALLER_COPY = 0.8
"""Of the largest face among near copies: up to here a copy is a smaller one, above it a frame or one saved again."""


@dataclass(frozen=True)
class Photo:
    """One photo and what was measured on its face.

    ``face_px`` is the shorter side of the face's box, for aligned crops that of the picture. ``pose`` is None where the
    detector finds no landmarks in an aligned crop.
    """

    file: str
    digest: str
    face_px: float
    faces_found: int
    sharpness: float
    exposure: Exposure
    tone: Tone
    pose: Pose | None
    covered: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        exposure_, pose = asdict(self.exposure), asdict(self.pose) if self.pose else None
        return {
            "file": self.file,
            "face_px": round(self.face_px),
            "faces_found": self.faces_found,
            "sharpness": self.sharpness,
            "exposure": exposure_,
            "pose_degrees": pose,
            "ita_degrees": self.tone.ita,
            "tone": self.tone.name,
            "covered": list(self.covered),
        }


@dataclass(frozen=True, eq=False)
class Survey:
    """The photos of a folder that show a face, in the order of their content's digest: names and order do not matter.

    ``chips`` [N,128,128,3] uint8, read like an array, are for showing, ``faces`` for feeding a network; ``copies`` [N]
    numbers groups of near copies, ``persons`` [N] people; both exist in memory only.
    """

    faces: FaceSet
    photos: tuple[Photo, ...]
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
        kept = set(best)
        return {
            photo.file: names[int(self.copies[index])] for index, photo in enumerate(self.photos) if index not in kept
        }

    def pick_best_copies(self, among: NDArray[np.int64] | None = None) -> list[int]:
        """Of each group of near copies the best photo, of ``among`` (default: all); singles are their own best.

        Best is the sharpest of those whose face is about as large as the largest: on the chip, which is always of one
        size, a thumbnail looks as sharp as the photo that it was made of.
        """
        groups: dict[int, list[int]] = {}
        for index in range(len(self)) if among is None else among.tolist():
            groups.setdefault(int(self.copies[index]), []).append(index)
        return sorted(self._best(members) for members in groups.values())

    def _best(self, members: list[int]) -> int:
        largest = max(self.photos[index].face_px for index in members)
        large = [index for index in members if self.photos[index].face_px > SMALLER_COPY * largest]
        return max(large, key=lambda index: (self.photos[index].sharpness, -index))

    def subset(self, indices: Sequence[int]) -> Survey:
        """The photos at ``indices``, in that order."""
        chosen = np.asarray(indices, np.int64)
        return Survey(
            faces=self.faces.subset(chosen),
            photos=tuple(self.photos[index] for index in chosen),
            chips=self.chips.subset(chosen),
            embeddings=self.embeddings[chosen],
            copies=self.copies[chosen],
            persons=self.persons[chosen],
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
    notes = _FaceMeasurer(FaceDetector(), template)
    faces = read_faces(
        folder,
        template=template,
        size=size,
        embedder=embedder,
        aligned=aligned,
        min_face_px=min_face_px,
        detector=notes.detector,
        keep_copies=True,
        inspect=notes.take,
        progress=progress,
    )
    order = np.argsort(np.array(faces.digests, dtype=str), kind="stable")
    faces = faces.subset(order)
    photos = tuple(
        Photo(digest=digest, **notes.measured[index]) for index, digest in zip(order, faces.digests, strict=True)
    )
    thumbnails = tuple(
        _stack_rows([notes.thumbnails[index][view] for index in order], VIEWS[view][0] ** 2) for view in (0, 1)
    )
    comparable = embedder.make_comparable(faces.embeddings)
    return Survey(
        faces=faces,
        photos=photos,
        chips=notes.chips.subset(order),
        embeddings=comparable,
        copies=group_copies((thumbnails[0], thumbnails[1]), comparable, embedder.same_person),
        persons=group_people(comparable, embedder.same_person),
    )


def _stack_rows(vectors: list[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.stack(vectors) if vectors else np.zeros((0, width), np.float32)


@dataclass
class _FaceMeasurer:
    """Measures each face while its photo is in memory."""

    detector: FaceDetector
    template: str
    measured: list[dict[str, Any]] = field(default_factory=list)
    chips: Crops = field(default_factory=lambda: Crops([], chips.TEMPLATE, chips.SIZE))
    thumbnails: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def take(self, look: InspectedFace) -> None:
        face = look.face
        if face is None:  # an aligned crop: its landmarks are known well enough to cut, not to tell the pose
            found = self.detector.detect(look.image)
            face = found[0] if found else None
        landmarks = None if face is None else face.landmarks
        chip = chips.cut_chip(look.image, landmarks)
        pose = None if landmarks is None else estimate_pose(look.image, landmarks, self.detector)
        turned = pose is not None and abs(pose.yaw) > COVERING_YAW
        self.measured.append(
            {
                "file": look.file,
                "face_px": float(min(look.image.shape[:2]) if look.face is None else look.face.side_px),
                "faces_found": look.faces_found,
                "sharpness": measure_sharpness(chip),
                "exposure": measure_exposure(chip),
                "tone": measure_tone(chip, look.image),
                "pose": pose,
                "covered": () if turned else detect_covers(chip),
            }
        )
        self.chips.add(replace(look.origin, landmarks=chips.locate_landmarks(look.image, landmarks)), chip)
        # The measures of copies were made for crops: the chip serves as one, whatever the generator's template.
        self.thumbnails.append((make_thumbnail(look.image, VIEWS[0][0]), make_thumbnail(chip, VIEWS[1][0])))
