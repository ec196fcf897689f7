"""Inputs for an engine where no faces are at hand: numbers in the range that the real ones have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trt_facefusion.errors import BadInputError
from trt_facefusion.presets import EmbeddingInput, ImageInput, Preset
from trt_facefusion.types import Array, Feeds, TensorSpec

_SEED = 0


def sample_feeds(specs: Sequence[TensorSpec], preset: Preset | None, batch: int, count: int) -> list[Feeds]:
    """``count`` inputs of ``batch`` samples each, the same in every run.

    Pictures are evenly distributed over the range that ``preset`` gives them (0..1 without one), embeddings are of
    length 1, fixed values are as they are.

    Raises:
        BadInputError: the size of an axis other than the batch is not known.
    """
    rng = np.random.default_rng(_SEED)
    described = {} if preset is None else {spec.name: spec for spec in preset.inputs}
    return [{spec.name: _values(spec, described.get(spec.name), batch, rng) for spec in specs} for _ in range(count)]


def _values(spec: TensorSpec, described: object, batch: int, rng: np.random.Generator) -> Array:
    shape = _shape(spec, described, batch)
    dtype = np.dtype(spec.dtype)
    if isinstance(described, ImageInput):
        low, high = described.limits
        values = rng.uniform(low, high, shape)
    elif described is not None and not isinstance(described, EmbeddingInput):
        values = np.repeat(described.values()[None], shape[0], 0)  # type: ignore[attr-defined]
    elif dtype.kind != "f":
        values = np.zeros(shape)
    elif len(shape) == 4:
        values = rng.uniform(0, 1, shape)
    else:
        values = rng.standard_normal(shape)
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return np.ascontiguousarray(values.astype(dtype))


def _shape(spec: TensorSpec, described: object, batch: int) -> tuple[int, ...]:
    known = list(spec.shape)
    if known and not isinstance(known[0], int):
        known[0] = batch
    if isinstance(described, ImageInput):
        known = [known[0], 3, described.size, described.size]
    unknown = [str(axis) for axis in known if not isinstance(axis, int)]
    if unknown:
        raise BadInputError(
            f"the size of the axis {', '.join(unknown)} of {spec} is not known",
            "profile an engine that trt-ff built (it knows its inputs), or export the model with fixed sizes",
        )
    return tuple(int(axis) for axis in known)
