"""One face at a time into a network: the same encoding as `inference.feeder`, for faces that belong to no set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.identity import encode_identity
from trt_facefusion.model.presets import EmbeddingInput, FileInput, ImageInput, ValueInput
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.model.presets.fit import Fit, find_fixed_batch, fit_inputs
from trt_facefusion.model.presets.inputs import SOURCE, TARGET
from trt_facefusion.swap.identity import CropKey, Identity
from trt_facefusion.types import Array, Feeds, Image, TensorSpec


@dataclass(frozen=True, eq=False)
class FaceInput:
    """One face that is to be rendered: its ``crops`` by template and side, and whose face is put in, if any."""

    crops: Mapping[CropKey, Image]
    identity: Identity | None


@dataclass(frozen=True)
class FaceFeeds:
    """Inputs of the network that ``contract`` describes and that ``takes`` these tensors.

    ``embedder`` is what identities were embedded with.
    """

    contract: Contract
    takes: tuple[TensorSpec, ...]
    embedder: Embedder

    @cached_property
    def fits(self) -> Mapping[str, Fit]:
        """How each input is fed. Raises BadInputError where one is not what its description says."""
        return fit_inputs(self.contract.preset, self.takes, self.embedder.fed_dim)

    @cached_property
    def fixed_batch(self) -> int | None:
        """The number of faces that the network insists on; None where it takes any."""
        return find_fixed_batch(self.contract.preset, self.takes, self.fits)

    @cached_property
    def _values(self) -> Mapping[str, Array]:
        return {
            spec.name: spec.values() for spec in self.contract.preset.inputs if isinstance(spec, FileInput | ValueInput)
        }

    def __call__(self, faces: Sequence[FaceInput]) -> Feeds:
        """Inputs for ``faces``, each of which has an identity, unless the network takes none."""
        preset = self.contract.preset
        count = len(faces)
        feeds: dict[str, Array] = {}
        for spec in preset.inputs:
            fit = self.fits[spec.name]
            if isinstance(spec, ImageInput):
                feeds[spec.name] = fit.samples(self._encode(spec, faces))
            elif isinstance(spec, EmbeddingInput):
                embeddings = np.stack([identity.embedding for identity in _list_identities(faces)])
                feeds[spec.name] = fit.samples(
                    encode_identity(spec, embeddings, self.embedder, self.contract.projection)
                )
            else:
                feeds[spec.name] = fit.fixed(self._values[spec.name], count)
        return feeds

    def _encode(self, spec: ImageInput, faces: Sequence[FaceInput]) -> Array:
        key = self.contract.preset.crop(spec)
        targets = np.stack([face.crops[key] for face in faces]) if spec.shows(TARGET) else None
        if not spec.shows(SOURCE):
            assert targets is not None
            return spec.encode(targets)
        sources = np.stack([identity.crops[key] for identity in _list_identities(faces)])
        return spec.encode(sources if targets is None else targets, sources)


def _list_identities(faces: Sequence[FaceInput]) -> list[Identity]:
    identities = [face.identity for face in faces if face.identity is not None]
    assert len(identities) == len(faces), "a network that takes an identity got none"
    return identities
