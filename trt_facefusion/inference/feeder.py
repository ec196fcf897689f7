"""Faces -> network inputs: the one place where calibration, verification and serving agree on what a network is fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.faces.pairing import pair_across_people
from trt_facefusion.inference.identity import encode_identity
from trt_facefusion.model.presets import EmbeddingInput, FileInput, ImageInput, Preset, ValueInput
from trt_facefusion.model.presets.fit import Fit, fit_inputs
from trt_facefusion.model.presets.inputs import SOURCE, TARGET
from trt_facefusion.types import Array, Feeds, TensorSpec

PAIRING_SEED = 0
BATCH = 4
"""Samples that run at a time, where the model allows: enough to fill two cores, and small enough that activations stay
near the caches."""


@dataclass(frozen=True)
class Feeder:
    """Network inputs for faces by number: each target crop with the identity and the crop of another person.

    ``projection`` is the matrix that the preset multiplies embeddings with, where it names one. ``fixed_batch`` is the
    number of samples that the model insists on: fewer are filled up with repeats. ``takes`` are the model's inputs;
    without them all have a batch axis and are float32.
    """

    preset: Preset
    faces: FaceSet
    embedder: Embedder
    projection: NDArray[np.float32] | None = None
    fixed_batch: int | None = None
    takes: tuple[TensorSpec, ...] = ()

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        """For each face the number of the face that lends its identity, embedding and images alike."""
        if not self.preset.swaps:
            return np.arange(len(self.faces))
        comparable = self.embedder.make_comparable(self.faces.embeddings)
        return pair_across_people(comparable, PAIRING_SEED, other_person=self.embedder.other_person)

    @cached_property
    def fits(self) -> Mapping[str, Fit]:
        """How each input is fed.

        Raises:
            BadInputError: an input is not what its description says.
        """
        if self.takes:
            return fit_inputs(self.preset, self.takes, self.embedder.fed_dim)
        shapes = list_input_shapes(self.preset, self.embedder.fed_dim)
        return {name: Fit(name, True, shape) for name, shape in shapes.items()}

    @cached_property
    def _crops(self) -> Mapping[tuple[str, int], Any]:
        """The faces as each image wants them, by template and side."""
        own, *other_crops = self.preset.crops
        return {own: self.faces.crops, **{crop: self.faces.cut_crops(*crop) for crop in other_crops}}

    @cached_property
    def _values(self) -> Mapping[str, Array]:
        return {spec.name: spec.values() for spec in self.preset.inputs if isinstance(spec, FileInput | ValueInput)}

    def __call__(self, indices: Sequence[int]) -> Feeds:
        """Inputs for the targets ``indices``."""
        targets = np.asarray(indices, np.int64)
        if self.fixed_batch is not None:
            targets = np.resize(targets, self.fixed_batch)
        feeds: dict[str, Array] = {}
        for spec in self.preset.inputs:
            fit = self.fits[spec.name]
            if isinstance(spec, ImageInput):
                feeds[spec.name] = fit.samples(self._encode(spec, targets))
            elif isinstance(spec, EmbeddingInput):
                raw = self.faces.embeddings[self.sources[targets]]
                vectors = encode_identity(spec, raw, self.embedder, self.projection)
                feeds[spec.name] = fit.samples(vectors)
            else:
                feeds[spec.name] = fit.fixed(self._values[spec.name], len(targets))
        return feeds

    def _encode(self, spec: ImageInput, targets: NDArray[np.int64]) -> Array:
        crops = self._crops[self.preset.crop(spec)]
        source = crops[self.sources[targets]] if spec.shows(SOURCE) else None
        return spec.encode(crops[targets] if source is None or spec.shows(TARGET) else source, source)


def list_input_shapes(preset: Preset, embedding_dim: int) -> dict[str, tuple[int, ...]]:
    """Shape of every described input, without batch axis, where no file says how it takes fixed values."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in preset.inputs:
        if isinstance(spec, ImageInput):
            shapes[spec.name] = spec.shape
        elif isinstance(spec, EmbeddingInput):
            shapes[spec.name] = (embedding_dim,)
        else:
            shapes[spec.name] = spec.values().shape
    return shapes
