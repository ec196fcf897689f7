"""Whose face is put in: photos of the source -> one identity, with the crops that some generators take in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.align import align_crop
from trt_facefusion.faces.decode import read_image
from trt_facefusion.faces.detector import Face
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.split import measure_distances
from trt_facefusion.swap.detectors import Detector
from trt_facefusion.types import Image

CropKey = tuple[str, int]
"""Template and side in pixels of an aligned crop."""


@dataclass(frozen=True, eq=False)
class Identity:
    """One person: ``embedding`` [dim] float32, raw, the mean over the photos; ``crops`` of the most typical photo."""

    embedding: NDArray[np.float32]
    crops: Mapping[CropKey, Image]


def read_identity(
    photos: Sequence[Path | Image], detector: Detector, embedder: Embedder, crops: Sequence[CropKey]
) -> Identity:
    """The person whose largest face ``photos`` show; embeddings are averaged, images are of the photo nearest to them.

    Raises:
        FacesError: there is no photo, one cannot be read, or shows no face.
    """
    if not photos:
        raise FacesError("no photo says whose face is put in", "name at least one with --source")
    sources = [_read_face(photo, number, detector) for number, photo in enumerate(photos)]
    chips = [align_crop(image, face.landmarks, embedder.template, embedder.size) for image, face in sources]
    embeddings = embedder.embed(np.stack(chips))
    mean = embeddings.mean(axis=0)
    nearest = int(measure_distances(embeddings, mean[None])[:, 0].argmin())
    image, face = sources[nearest]
    return Identity(mean, {key: align_crop(image, face.landmarks, *key) for key in dict.fromkeys(crops)})


def embed_faces(image: Image, faces: Sequence[Face], embedder: Embedder) -> NDArray[np.float32]:
    """Comparable embeddings [N,dim] of ``faces`` in ``image`` [H,W,3]."""
    chips = [align_crop(image, face.landmarks, embedder.template, embedder.size) for face in faces]
    shape = (0, embedder.size, embedder.size, 3)
    return embedder.make_comparable(embedder.embed(np.stack(chips) if chips else np.zeros(shape, np.uint8)))


def _read_face(photo: Path | Image, number: int, detector: Detector) -> tuple[Image, Face]:
    name = photo.name if isinstance(photo, Path) else f"source {number + 1}"
    image = read_image(photo) if isinstance(photo, Path) else photo
    faces = detector.detect(image)
    if not faces:
        raise FacesError(
            f"{name} shows no face that could be found", "take a photo that shows the face large and clear"
        )
    return image, faces[0]
