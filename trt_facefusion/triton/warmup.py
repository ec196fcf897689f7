"""Sample faces as the generator's first inputs: Triton runs them on every instance before it says that it is ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.curation.covering import MEAN_FACE
from trt_facefusion.faces.decode import read_image
from trt_facefusion.storage.files import read_regular
from trt_facefusion.triton.steps import CROP, MATRIX, PhotoSteps
from trt_facefusion.types import Array


def make_warmup(steps: PhotoSteps, photos: Sequence[Path] = ()) -> Mapping[str, Array]:
    """The generator's inputs [1,...] (without a batch axis where it has none) for the first of ``photos``.

    Without photos the bundled mean face, which shows nobody, in the middle of a grey ground.

    Raises:
        FacesError: the photo cannot be read, or shows no face.
    """
    encoded = read_regular(photos[0], "photo", FacesError) if photos else _encode_mean_face()
    sources = [encoded] if steps.preset.swaps else []
    tensors = steps.prepare(sources, encoded)
    return {name: np.ascontiguousarray(a) for name, a in tensors.items() if name not in {MATRIX, CROP}}


def _encode_mean_face() -> bytes:
    import cv2

    face = cv2.resize(read_image(MEAN_FACE), (256, 256), interpolation=cv2.INTER_CUBIC)
    ground = np.full((384, 384, 3), 127, np.uint8)
    ground[64:320, 64:320] = face
    done, png = cv2.imencode(".png", np.ascontiguousarray(ground[..., ::-1]))
    assert done
    return bytes(png)
