"""A folder of photos -> aligned crops with their embeddings, and a reason for every photo that was left out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.crops import Crops
from trt_facefusion.faces.decode import can_read_heic
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import Skipped, digest_lines
from trt_facefusion.faces.find import find_photos, list_photos
from trt_facefusion.faces.image_file import (
    MAX_FILE_BYTES,
    ImageTooLargeError,
    NotAFileError,
    UnreadableImageError,
    read_bytes,
)
from trt_facefusion.faces.kinds import HEAD_BYTES, detect_kind, explain_unread
from trt_facefusion.faces.reader import CropSpec, InspectedFace, Reader, SkipError
from trt_facefusion.sampling import spread
from trt_facefusion.types import Progress, silent

__all__ = [
    "KINDS",
    "FaceSet",
    "InspectedFace",
    "Skipped",
    "digest_folder",
    "list_photos",
    "read_faces",
    "require_enough",
]

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
        chosen = np.asarray(list(indices), np.int64)
        return replace(
            self,
            crops=self.crops.subset(chosen),
            embeddings=self.embeddings[chosen],
            files=tuple(self.files[i] for i in chosen),
            digests=tuple(self.digests[i] for i in chosen),
        )

    def thinned(self, limit: int) -> FaceSet:
        """At most ``limit`` faces (0: all), evenly spread over the set."""
        return self if limit <= 0 or len(self) <= limit else self.subset(spread(len(self), limit))

    def crops_for(self, template: str, size: int) -> Crops:
        """The same faces in the same order, cut with another ``template`` [N,size,size,3] uint8 RGB."""
        return self.crops.cut_for(template, size)

    def summary(self) -> dict[str, int]:
        """How many photos were skipped, by kind; kinds that did not occur are left out."""
        counts = Counter(skip.kind for skip in self.skipped)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}


def read_faces(
    folder: Path,
    *,
    template: str,
    size: int,
    embedder: Embedder,
    aligned: bool = False,
    min_face_px: int = MIN_FACE_PX,
    detector: FaceDetector | None = None,
    keep_copies: bool = False,
    inspect: Callable[[InspectedFace], None] | None = None,
    progress: Progress = silent,
) -> FaceSet:
    """Read every photo in ``folder`` and below, in sorted order; of several faces the largest is taken.

    Args:
        folder: hidden and system folders in it are left out, and links to folders are not followed.
        template: landmark template of the crops, a key of `TEMPLATES`.
        size: side of the crops in pixels.
        embedder: computes the embeddings, on chips of its own template.
        aligned: the photos are crops that were aligned with ``template`` already: nothing is detected, and square ones
            are taken as they are, resized to ``size``.
        min_face_px: faces (with ``aligned``, pictures) whose shorter side is below this are skipped.
        detector: default `FaceDetector()`.
        keep_copies: take pictures that are almost the same as another one, too, instead of the largest only; the same
            file is still taken once.
        inspect: called for every face that is taken, in the order of the set, with the whole photo; without
            ``keep_copies`` also for those that a larger copy replaces later.
        progress: called with stage "faces" after every photo.

    Raises:
        FacesError: no such folder, not a folder, unreadable, or without a photo. Too few usable faces is for
            `require_enough` to say.
    """
    detector = detector or FaceDetector()
    spec = CropSpec(template, size, embedder, aligned, min_face_px, detector)
    found = find_photos(folder)
    reader = Reader(spec, len(found.photos), keep_copies, inspect)
    seen: list[str] = []
    for done, path in enumerate(found.photos, 1):
        name = path.relative_to(folder).as_posix()
        try:
            data, digest = _read_content(path)
            seen.append(_digest_content(data, digest))
            reader.add(name, Path(os.path.realpath(path)), digest, data)
        except SkipError as skip:
            reader.skipped.append(Skipped(name, skip.reason, skip.kind))
        except _UnreadError as skip:
            seen.append(skip.digest)
            reader.skipped.append(Skipped(name, skip.reason, skip.kind))
        progress("faces", done, len(found.photos))
    reader.skipped += [
        Skipped(path.relative_to(folder).as_posix(), explain_unread("camera raw"), "unreadable") for path in found.raw
    ]
    return FaceSet(
        crops=reader.crops,
        embeddings=reader.embeddings(),
        files=tuple(reader.files),
        digests=tuple(reader.digests),
        template=template,
        size=size,
        settings=spec.digest,
        folder_digest=digest_lines([spec.digest, *seen]),
        skipped=tuple(sorted(reader.skipped, key=lambda skip: skip.file)),
        note=found.note,
    ).subset(reader.kept)


def digest_folder(
    folder: Path,
    *,
    template: str,
    size: int,
    embedder: Embedder,
    aligned: bool = False,
    min_face_px: int = MIN_FACE_PX,
    detector: FaceDetector | None = None,
) -> str:
    """`FaceSet.folder_digest` of the set that `read_faces` would give for the same arguments, without decoding a photo.

    Covers the content of every photo, skipped ones too, in sorted order, and all settings. Renaming that keeps the
    order, and moving the folder, leave it as it is.

    Raises:
        FacesError: as `read_faces`.
    """
    spec = CropSpec(template, size, embedder, aligned, min_face_px, detector or FaceDetector())
    seen = []
    for path in list_photos(folder):
        try:
            seen.append(_digest_content(*_read_content(path)))
        except _UnreadError as unread:
            seen.append(unread.digest)
    return digest_lines([spec.digest, *seen])


def require_enough(faces: FaceSet, minimum: int = MIN_FACES, advised: int = ADVISED_FACES) -> str | None:
    """A warning where there are fewer than ``advised`` faces, else None.

    Raises:
        FacesError: fewer than ``minimum`` faces; says why photos were skipped and how many to add.
    """
    found = len(faces)
    skipped = ", ".join(f"{count} {KINDS[kind]}" for kind, count in faces.count_skipped().items())
    why = f" ({len(faces.skipped)} skipped: {skipped})" if skipped else ""
    photos = "photo" if minimum - found == 1 else "photos"
    if found < minimum:
        raise FacesError(
            f"only {found} usable {'face' if found == 1 else 'faces'}, at least {minimum} are needed{why}",
            f"Add at least {minimum - found} {photos} that each show another clear face of {MIN_FACE_PX} px or more; "
            f"{advised} varied faces (light, skin tone, age, pose) are better. If the photos are aligned crops, "
            "say so with --aligned.",
        )
    if found < advised:
        return (
            f"{found} usable faces{why}: {advised} or more, varied in light, skin tone, age and pose, "
            "give safer INT8 ranges"
        )
    return None


class _UnreadError(Exception):
    """The content was not read: ``digest`` stands in for it."""

    def __init__(self, kind: str, reason: str, digest: str) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.digest = kind, reason, digest


def _read_content(path: Path) -> tuple[bytes, str]:
    """The bytes of a photo and their sha256."""
    try:
        data = read_bytes(path)
    except ImageTooLargeError as error:
        # Hashing gigabytes that are never used would only delay: the size tells enough.
        stand_in = digest_lines(["too large", str(path.stat().st_size), str(MAX_FILE_BYTES)])
        raise _UnreadError("too_large", error.reason, stand_in) from error
    except NotAFileError as error:
        raise _UnreadError("unreadable", error.reason, digest_lines(["not a file"])) from error
    except UnreadableImageError as error:
        raise _UnreadError("unreadable", error.reason, digest_lines(["unreadable"])) from error
    return data, hashlib.sha256(data).hexdigest()


def _digest_content(data: bytes, digest: str) -> str:
    """What the folder's digest takes of a photo: more than its content where a package decides if it can be read."""
    return digest_lines([digest, "read"]) if detect_kind(data[:HEAD_BYTES]) == "HEIC" and can_read_heic() else digest
