"""A folder of photos -> aligned crops with their embeddings, and a reason for every photo that was left out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.align import align_crop, template_to_template, warp
from trt_facefusion.faces.decode import (
    MAX_FILE_BYTES,
    ImageTooLargeError,
    UnreadableImageError,
    decode_image,
    read_bytes,
)
from trt_facefusion.faces.detector import Face, FaceDetector
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.types import Image, Progress, silent

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff"})
# Photos too, but of formats that are not read: the user hears about them instead of missing them.
FOREIGN_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl"})

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

# Changes whenever the same photos would give other crops or embeddings, so that no older result passes for current.
_VERSION = "faces-1"
_EMBED_EVERY = 16


@dataclass(frozen=True)
class Skipped:
    """A photo that was left out: its name relative to the folder, the reason as a sentence, and its kind (`KINDS`)."""

    file: str
    reason: str
    kind: str


@dataclass(frozen=True, eq=False)
class Look:
    """A photo whose face was taken, while its pixels are at hand: ``image`` and ``crop`` [H,W,3] uint8 RGB.

    ``face`` is None, and ``faces_found`` 1, where the photos are aligned crops, in which nothing is detected.
    """

    file: str
    image: Image
    crop: Image
    face: Face | None
    faces_found: int


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces of one folder.

    ``crops`` [N,size,size,3] uint8 RGB; ``embeddings`` [N,dim] float32, raw; ``files`` relative names; ``digests``
    sha256 of each file; ``settings`` digest of all that turns a photo into a crop; ``folder_digest`` what the function
    of that name gives for the whole folder.
    """

    crops: NDArray[np.uint8]
    embeddings: NDArray[np.float32]
    files: tuple[str, ...]
    digests: tuple[str, ...]
    template: str
    size: int
    settings: str
    folder_digest: str
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def digest(self) -> str:
        """One sha256 over these faces, in this order, and the settings: the key of whatever is made from them."""
        return _digest_of([self.settings, *self.digests])

    def subset(self, indices: Iterable[int] | NDArray[np.int64]) -> FaceSet:
        """The faces at ``indices``, in that order; what was skipped stays on record."""
        chosen = np.asarray(list(indices), np.int64)
        return FaceSet(
            crops=self.crops[chosen],
            embeddings=self.embeddings[chosen],
            files=tuple(self.files[i] for i in chosen),
            digests=tuple(self.digests[i] for i in chosen),
            template=self.template,
            size=self.size,
            settings=self.settings,
            folder_digest=self.folder_digest,
            skipped=self.skipped,
        )

    def crops_for(self, template: str, size: int) -> NDArray[np.uint8]:
        """The same faces in the same order, cut with another ``template`` [N,size,size,3] uint8 RGB."""
        matrix = template_to_template(self.template, self.size, template, size)
        return np.stack([warp(crop, matrix, size) for crop in self.crops])

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
    inspect: Callable[[Look], None] | None = None,
    progress: Progress = silent,
) -> FaceSet:
    """Read every photo in ``folder`` and below, in sorted order; of several faces the largest is taken.

    Args:
        folder: hidden files and folders in it are ignored, and links to folders are not followed.
        template: landmark template of the crops, a key of `TEMPLATES`.
        size: side of the crops in pixels.
        embedder: computes the embeddings, on chips of its own template.
        aligned: the photos are crops that were aligned with ``template`` already: nothing is detected, and square ones
            are taken as they are, resized to ``size``.
        min_face_px: faces (with ``aligned``, pictures) whose shorter side is below this are skipped.
        detector: default `FaceDetector()`.
        keep_copies: take pictures that are almost the same as an earlier one, too; the same file is still taken once.
        inspect: called for every face that is taken, in the order of the set, with the whole photo.
        progress: called with stage "faces" after every photo.

    Raises:
        FacesError: no such folder, not a folder, unreadable, or without a photo. Too few usable faces is for
            `require_enough` to say.
    """
    detector = detector or FaceDetector()
    spec = _Spec(template, size, embedder, aligned, min_face_px, detector)
    paths = image_files(folder)
    reader = _Reader(spec, len(paths), keep_copies, inspect)
    seen: list[str] = []
    for done, path in enumerate(paths, 1):
        name = path.relative_to(folder).as_posix()
        try:
            data, digest = _content(path)
            seen.append(digest)
            reader.add(name, digest, data)
        except _SkipError as skip:
            reader.skipped.append(Skipped(name, skip.reason, skip.kind))
        except _UnreadError as skip:
            seen.append(skip.digest)
            reader.skipped.append(Skipped(name, skip.reason, skip.kind))
        progress("faces", done, len(paths))
    return reader.finish(_digest_of([spec.digest, *seen]))


def folder_digest(
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
    spec = _Spec(template, size, embedder, aligned, min_face_px, detector or FaceDetector())
    seen = []
    for path in image_files(folder):
        try:
            seen.append(_content(path)[1])
        except _UnreadError as unread:
            seen.append(unread.digest)
    return _digest_of([spec.digest, *seen])


def require_enough(faces: FaceSet, minimum: int = MIN_FACES, advised: int = ADVISED_FACES) -> str | None:
    """A warning where there are fewer than ``advised`` faces, else None.

    Raises:
        FacesError: fewer than ``minimum`` faces; says why photos were skipped and how many to add.
    """
    found = len(faces)
    skipped = ", ".join(f"{count} {KINDS[kind]}" for kind, count in faces.summary().items())
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


def image_files(folder: Path) -> list[Path]:
    """The photos in ``folder`` and below by suffix, sorted by relative name; hidden ones are left out.

    Raises:
        FacesError: no such folder, a file, unreadable, empty, or without a photo.
    """
    remedy = f"Name a folder with photos ({', '.join(sorted(s[1:] for s in SUFFIXES))})."
    if not folder.exists():
        raise FacesError(f"there is no folder {folder}", remedy)
    if not folder.is_dir():
        raise FacesError(f"{folder} is a file, not a folder", remedy)
    others, photos = 0, []
    try:
        for root, folders, names in os.walk(folder, onerror=_reraise):
            folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
            for path in (Path(root) / name for name in names if not name.startswith(".")):
                wanted = path.suffix.lower() in SUFFIXES | FOREIGN_SUFFIXES
                others += not wanted
                photos += [path] if wanted else []
    except OSError as error:
        raise FacesError(
            f"the folder {error.filename or folder} cannot be read: {error.strerror or error}",
            "Check its rights, or name another folder.",
        ) from error
    if not photos:
        what = f"holds no photo among its {others} files" if others else "is empty"
        raise FacesError(f"the folder {folder} {what}", remedy)
    return sorted(photos, key=lambda path: path.relative_to(folder).as_posix())


def _reraise(error: OSError) -> None:
    raise error


class _SkipError(Exception):
    """Leave this photo out."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class _UnreadError(Exception):
    """The content was not read: ``digest`` stands in for it."""

    def __init__(self, kind: str, reason: str, digest: str) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.digest = kind, reason, digest


def _content(path: Path) -> tuple[bytes, str]:
    """The bytes of a photo and their sha256."""
    try:
        if not path.is_file():
            raise _UnreadError("unreadable", "not a regular file", _digest_of(["not a file"]))
        data = read_bytes(path)
    except ImageTooLargeError as error:
        # Hashing gigabytes that are never used would only delay: the size tells enough.
        stand_in = _digest_of(["too large", str(path.stat().st_size), str(MAX_FILE_BYTES)])
        raise _UnreadError("too_large", error.reason, stand_in) from error
    except UnreadableImageError as error:
        raise _UnreadError("unreadable", error.reason, _digest_of(["unreadable"])) from error
    return data, hashlib.sha256(data).hexdigest()


def _digest_of(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Cut(NamedTuple):
    """The crop and the embedder's chip of a face, and what was detected."""

    crop: Image
    chip: Image
    face: Face | None = None
    faces_found: int = 1


@dataclass(frozen=True)
class _Spec:
    """How a photo becomes a crop and a chip."""

    template: str
    size: int
    embedder: Embedder
    aligned: bool
    min_face_px: int
    detector: FaceDetector

    @property
    def digest(self) -> str:
        found_by = "aligned" if self.aligned else self.detector.digest
        return _digest_of(
            [_VERSION, self.template, str(self.size), self.embedder.digest, str(self.min_face_px), found_by]
        )

    def cut(self, image: Image) -> _Cut:
        """The face in ``image``."""
        return self._cut_aligned(image) if self.aligned else self._cut_photo(image)

    def _cut_photo(self, image: Image) -> _Cut:
        found = self.detector.detect(image)
        if not found:
            raise _SkipError("no_face", "no face was found")
        face = found[0]
        if face.side_px < self.min_face_px:
            raise _SkipError(
                "tiny_face", f"the face is {face.side_px:.0f} px wide, at least {self.min_face_px} px are needed"
            )
        try:
            crop = align_crop(image, face.landmarks, self.template, self.size)
            chip = align_crop(image, face.landmarks, self.embedder.template, self.embedder.size)
            return _Cut(crop, chip, face, len(found))
        except ValueError as error:
            raise _SkipError("no_face", f"no usable face was found: {error}") from error

    def _cut_aligned(self, image: Image) -> _Cut:
        height, side = image.shape[:2]
        if height != side:
            raise _SkipError("not_square", f"{side}x{height} pixels: an aligned crop is square")
        if side < self.min_face_px:
            raise _SkipError("tiny_face", f"{side}x{side} pixels, at least {self.min_face_px} px are needed")
        matrix = template_to_template(self.template, side, self.embedder.template, self.embedder.size)
        shrink = side > self.size
        crop = (
            image
            if side == self.size
            else cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
        )
        return _Cut(crop, warp(image, matrix, self.embedder.size))


@dataclass
class _Reader:
    """Collects faces; chips are embedded in small batches, so that memory holds little more than the crops."""

    spec: _Spec
    capacity: int
    keep_copies: bool = False
    inspect: Callable[[Look], None] | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Untouched pages cost no memory, so the room for all photos is taken at once and never copied.
        size = self.spec.size
        self.crops = np.empty((self.capacity, size, size, 3), np.uint8)
        self.twins = _TwinFinder(self.capacity)
        self.files: list[str] = []
        self.digests: dict[str, str] = {}
        self.chips: list[Image] = []
        self.embeddings: list[NDArray[np.float32]] = []

    def add(self, name: str, digest: str, data: bytes) -> None:
        """Take the face of one photo, or raise `_SkipError`."""
        if digest in self.digests:
            raise _SkipError("duplicate", f"the same file as {self.digests[digest]}")
        if Path(name).suffix.lower() in FOREIGN_SUFFIXES:
            raise _SkipError("unreadable", f"{Path(name).suffix} photos are not read: save it as JPEG or PNG")
        try:
            image = decode_image(data, name)
        except ImageTooLargeError as error:
            raise _SkipError("too_large", error.reason) from error
        except UnreadableImageError as error:
            raise _SkipError("unreadable", error.reason) from error
        crop, chip, face, faces_found = self.spec.cut(image)
        twin = None if self.keep_copies else self.twins.add(image, crop)
        if twin is not None:
            raise _SkipError("duplicate", f"almost the same picture as {self.files[twin]}")
        if self.inspect is not None:
            self.inspect(Look(name, image, crop, face, faces_found))
        self.crops[len(self.files)] = crop
        self.files.append(name)
        self.digests[digest] = name
        self.chips.append(chip)
        if len(self.chips) == _EMBED_EVERY:
            self._embed()

    def _embed(self) -> None:
        if self.chips:
            self.embeddings.append(self.spec.embedder.embed(np.stack(self.chips)))
            self.chips.clear()

    def finish(self, whole_folder: str) -> FaceSet:
        """The faces taken so far."""
        self._embed()
        return FaceSet(
            crops=self.crops[: len(self.files)],
            embeddings=np.concatenate([np.zeros((0, self.spec.embedder.dim), np.float32), *self.embeddings]),
            files=tuple(self.files),
            digests=tuple(self.digests),
            template=self.spec.template,
            size=self.spec.size,
            settings=self.spec.digest,
            folder_digest=whole_folder,
            skipped=tuple(self.skipped),
        )


VIEWS = ((32, 0.97), (16, 0.96))
"""Thumbnail side, and the correlation from which on it is a copy: whole picture, crop. See `_TwinFinder`."""


class _TwinFinder:
    """Finds copies of a picture: saved again, resized, brightened, turned to grey, or cut out differently.

    Two thumbnails are compared by normalised correlation. The whole picture at 32x32: of 749 different portraits the
    nearest pair reaches 0.948; copies at 0.7 of the size and JPEG quality 50, 15 % brighter or with gamma 1.6 stay
    above 0.981. The aligned crop at 16x16, for copies with other edges: the nearest pair reaches 0.944, the same copies
    aligned 1.5 px off stay above 0.961. A perceptual hash of 64 bits cannot tell aligned faces apart, and an embedding
    would also take two photos of one person for copies.
    """

    def __init__(self, capacity: int) -> None:
        self.thumbnails = [np.empty((capacity, side * side), np.float32) for side, _ in VIEWS]
        self.count = 0

    def add(self, image: Image, crop: Image) -> int | None:
        """The index of an earlier copy, or None after taking the picture in as a new one."""
        for known, picture, (side, limit) in zip(self.thumbnails, (image, crop), VIEWS, strict=True):
            known[self.count : self.count + 1] = thumbnail(picture, side)
            likeness = known[: self.count] @ known[self.count]
            if self.count and likeness.max() > limit:
                return int(likeness.argmax())
        self.count += 1
        return None


def thumbnail(picture: Image, side: int) -> NDArray[np.float32]:
    """Grey values [side*side] with mean 0 and length 1; all 0 for a flat picture."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    values = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)
