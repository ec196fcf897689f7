"""A folder of photos -> aligned crops with their embeddings, and a reason for every photo that was left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from trt_facefusion.faces.decode import can_read_heic
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import MIN_FACE_PX, FaceSet, Skipped, digest_lines
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
from trt_facefusion.types import Progress, silent


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
    listing = find_photos(folder)
    reader = Reader(spec, len(listing.photos), keep_copies, inspect)
    content_digests: list[str] = []
    for done, path in enumerate(listing.photos, 1):
        name = path.relative_to(folder).as_posix()
        try:
            encoded, digest = _read_content(path)
            content_digests.append(_digest_content(encoded, digest))
            reader.add(name, Path(os.path.realpath(path)), digest, encoded)
        except SkipError as skip:
            reader.skipped.append(Skipped(name, skip.reason, skip.kind))
        except _UnreadError as skip:
            content_digests.append(skip.digest)
            reader.skipped.append(Skipped(name, skip.reason, skip.kind))
        progress("faces", done, len(listing.photos))
    reader.skipped += [
        Skipped(path.relative_to(folder).as_posix(), explain_unread("camera raw"), "unreadable") for path in listing.raw
    ]
    return FaceSet(
        crops=reader.crops,
        embeddings=reader.collect_embeddings(),
        files=tuple(reader.files),
        digests=tuple(reader.digests),
        template=template,
        size=size,
        settings=spec.digest,
        folder_digest=digest_lines([spec.digest, *content_digests]),
        skipped=tuple(sorted(reader.skipped, key=lambda skip: skip.file)),
        note=listing.note,
    ).subset(reader.representatives)


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
    content_digests = []
    for path in list_photos(folder):
        try:
            content_digests.append(_digest_content(*_read_content(path)))
        except _UnreadError as unread:
            content_digests.append(unread.digest)
    return digest_lines([spec.digest, *content_digests])


class _UnreadError(Exception):
    """The content was not read: ``digest`` stands in for it."""

    def __init__(self, kind: str, reason: str, digest: str) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.digest = kind, reason, digest


def _read_content(path: Path) -> tuple[bytes, str]:
    """The bytes of a photo and their sha256."""
    try:
        encoded = read_bytes(path)
    except ImageTooLargeError as error:
        # Hashing gigabytes that are never used would only delay: the size tells enough.
        stand_in = digest_lines(["too large", str(path.stat().st_size), str(MAX_FILE_BYTES)])
        raise _UnreadError("too_large", error.reason, stand_in) from error
    except NotAFileError as error:
        raise _UnreadError("unreadable", error.reason, digest_lines(["not a file"])) from error
    except UnreadableImageError as error:
        raise _UnreadError("unreadable", error.reason, digest_lines(["unreadable"])) from error
    return encoded, hashlib.sha256(encoded).hexdigest()


def _digest_content(encoded: bytes, digest: str) -> str:
    """What the folder's digest takes of a photo: more than its content where a package decides if it can be read."""
    return digest_lines([digest, "read"]) if detect_kind(encoded[:HEAD_BYTES]) == "HEIC" and can_read_heic() else digest
