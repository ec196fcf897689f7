"""Takes the face of one photo after another; of copies of one picture, the largest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.align import align_crop, fit_templates, warp
from trt_facefusion.faces.crops import Crops, Origin
from trt_facefusion.faces.decode import decode_image
from trt_facefusion.faces.detector import Face, FaceDetector
from trt_facefusion.faces.duplicates import CLEARLY_LARGER, CopyFinder
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import Skipped, digest_lines
from trt_facefusion.faces.image_file import ImageTooLargeError, UnreadableImageError
from trt_facefusion.types import Image

# Changes whenever the same photos would give other crops or embeddings, so that no older result passes for current.
_VERSION = "faces-4"
_EMBED_EVERY = 16


@dataclass(frozen=True, eq=False)
class InspectedFace:
    """A photo whose face was taken, while its pixels are at hand: ``image`` and ``crop`` [H,W,3] uint8 RGB.

    ``face`` is None, and ``faces_found`` 1, where the photos are aligned crops, in which nothing is detected.
    ``origin`` is what further crops of it can be cut from.
    """

    file: str
    image: Image
    crop: Image
    face: Face | None
    faces_found: int
    origin: Origin


class SkipError(Exception):
    """Leave this photo out."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class _CutFace(NamedTuple):
    """The crop and the embedder's chip of a face, what was detected, and the face's size in pixels of the photo."""

    crop: Image
    chip: Image
    side_px: float
    face: Face | None = None
    faces_found: int = 1


@dataclass(frozen=True)
class CropSpec:
    """How a photo becomes a crop and a chip."""

    template: str
    size: int
    embedder: Embedder
    aligned: bool
    min_face_px: int
    detector: FaceDetector

    @property
    def digest(self) -> str:
        """Of all that turns a photo into a crop and an embedding."""
        found_by = "aligned" if self.aligned else self.detector.digest
        return digest_lines(
            [_VERSION, self.template, str(self.size), self.embedder.digest, str(self.min_face_px), found_by]
        )

    def make_origin(self, path: Path, digest: str, face: Face | None) -> Origin:
        """What the crop of the photo at ``path`` is cut from."""
        return Origin(path, digest, None if face is None else face.landmarks, self.template)

    def cut(self, image: Image) -> _CutFace:
        """The face in ``image``; raises `SkipError`."""
        return self._cut_aligned(image) if self.aligned else self._cut_photo(image)

    def _cut_photo(self, image: Image) -> _CutFace:
        faces = self.detector.detect(image)
        if not faces:
            raise SkipError("no_face", "no face was found")
        face = faces[0]
        if face.side_px < self.min_face_px:
            raise SkipError(
                "tiny_face", f"the face is {face.side_px:.0f} px wide, at least {self.min_face_px} px are needed"
            )
        try:
            crop = align_crop(image, face.landmarks, self.template, self.size)
            chip = align_crop(image, face.landmarks, self.embedder.template, self.embedder.size)
            return _CutFace(crop, chip, face.side_px, face, len(faces))
        except ValueError as error:
            raise SkipError("no_face", f"no usable face was found: {error}") from error

    def _cut_aligned(self, image: Image) -> _CutFace:
        height, side = image.shape[:2]
        if height != side:
            raise SkipError("not_square", f"{side}x{height} pixels: an aligned crop is square")
        if side < self.min_face_px:
            raise SkipError("tiny_face", f"{side}x{side} pixels, at least {self.min_face_px} px are needed")
        matrix = fit_templates(self.template, side, self.embedder.template, self.embedder.size)
        crop = Origin(Path(), "", None, self.template).cut(image, self.template, self.size)
        return _CutFace(crop, warp(image, matrix, self.embedder.size), side)


@dataclass
class Reader:
    """Collects faces; chips are embedded in small batches, so that no photo's pixels are held for long.

    Faces are numbered as they come. One that a larger copy replaces keeps its number: `representatives` leaves it out.
    """

    spec: CropSpec
    capacity: int
    keep_copies: bool = False
    inspect: Callable[[InspectedFace], None] | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.crops = Crops([], self.spec.template, self.spec.size)
        self.copies = CopyFinder(0 if self.keep_copies else self.capacity)
        self.files: list[str] = []
        self.sides: list[float] = []
        self.digests: dict[str, str] = {}
        self._representative: list[int] = []  # of each face, the one that is kept instead: mostly itself
        self._chips: list[Image] = []
        self._embeddings: list[NDArray[np.float32]] = []

    def add(self, name: str, path: Path, digest: str, encoded: bytes) -> None:
        """Take the face of one photo, or raise `SkipError`."""
        if digest in self.digests:
            raise SkipError("duplicate", f"the same file as {self.digests[digest]}")
        try:
            image = decode_image(encoded, name)
        except ImageTooLargeError as error:
            raise SkipError("too_large", error.reason) from error
        except UnreadableImageError as error:
            raise SkipError("unreadable", error.reason) from error
        cut = self.spec.cut(image)
        if not self.keep_copies:
            self._resolve_copies(name, image, cut)
        else:
            self._representative.append(len(self.files))
        origin = self.spec.make_origin(path, digest, cut.face)
        if self.inspect is not None:
            self.inspect(InspectedFace(name, image, cut.crop, cut.face, cut.faces_found, origin))
        self.crops.add(origin, cut.crop)
        self.files.append(name)
        self.sides.append(cut.side_px)
        self.digests[digest] = name
        self._chips.append(cut.chip)
        if len(self._chips) == _EMBED_EVERY:
            self._embed()

    def _resolve_copies(self, name: str, image: Image, cut: _CutFace) -> None:
        """Raise `SkipError` for a copy of a picture that is there already, unless this one is clearly larger."""
        number, copy = len(self.files), self.copies.find(image, cut.crop)
        if copy is not None:
            best = self._representative[copy]
            if cut.side_px < CLEARLY_LARGER * self.sides[best]:
                raise SkipError("duplicate", f"almost the same picture as {self.files[best]}")
            self._representative = [number if other == best else other for other in self._representative]
            reason = f"almost the same picture as {name}, which is larger"
            self.skipped.append(Skipped(self.files[best], reason, "duplicate"))
        self.copies.add(image, cut.crop)
        self._representative.append(number)

    def _embed(self) -> None:
        if self._chips:
            self._embeddings.append(self.spec.embedder.embed(np.stack(self._chips)))
            self._chips.clear()

    @property
    def representatives(self) -> list[int]:
        """The numbers of the faces that no larger copy replaced, in the order of the photos."""
        return [number for number, best in enumerate(self._representative) if number == best]

    def collect_embeddings(self) -> NDArray[np.float32]:
        """Of all faces by number [N,dim]."""
        self._embed()
        return np.concatenate([np.zeros((0, self.spec.embedder.dim), np.float32), *self._embeddings])
