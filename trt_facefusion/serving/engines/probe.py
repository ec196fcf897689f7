"""The face that engines are tried with: the mean face of the package, nobody's. A user's face is never kept for it."""

from __future__ import annotations

import numpy as np

from trt_facefusion.faces.align import fit_templates, warp
from trt_facefusion.faces.curation.chip import SIZE, TEMPLATE
from trt_facefusion.faces.curation.covering import MEAN_FACE
from trt_facefusion.faces.decode import read_image
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.model.presets import Preset
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.swap.identity import CropKey, Identity
from trt_facefusion.types import Image


def make_probe(preset: Preset, embedder: Embedder) -> FaceInput:
    """The mean face as ``preset`` takes it, with its own identity where the generator takes one."""
    face = read_image(MEAN_FACE)
    crops = {key: _cut(face, key) for key in preset.crops}
    if not preset.swaps:
        return FaceInput(crops, None)
    chip = _cut(face, (embedder.template, embedder.size))
    return FaceInput(crops, Identity(embedder.embed(chip[None])[0], crops))


def _cut(face: Image, key: CropKey) -> Image:
    template, size = key
    return np.ascontiguousarray(warp(face, fit_templates(TEMPLATE, SIZE, template, size), size))
