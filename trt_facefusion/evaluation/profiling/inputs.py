"""Inputs for an engine where no faces are at hand: numbers in the range that the real ones have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets import FileInput, ImageInput, InputSpec, Preset, ValueInput
from trt_facefusion.model.presets.fit import Fit, cast, fit_input
from trt_facefusion.types import Array, Feeds, TensorSpec

_SEED = 0


def draw_samples(specs: Sequence[TensorSpec], preset: Preset | None, batch: int, count: int) -> list[Feeds]:
    """``count`` inputs of ``batch`` samples each, the same in every run.

    Pictures are evenly distributed over the range that ``preset`` gives them (0..1 without one), embeddings are of
    length 1, fixed values are as they are.

    Raises:
        BadInputError: the size of an axis other than the batch is not known.
    """
    rng = np.random.default_rng(_SEED)
    described = {} if preset is None else {spec.name: spec for spec in preset.inputs}
    return [
        {spec.name: _draw_values(spec, described.get(spec.name), batch, rng) for spec in specs} for _ in range(count)
    ]


def _draw_values(spec: TensorSpec, described: InputSpec | None, batch: int, rng: np.random.Generator) -> Array:
    fit = None if described is None else _fit_input(described, spec)
    if fit is not None and isinstance(described, FileInput | ValueInput):
        return fit.fixed(described.values(), batch)
    shape = _fix_shape(spec, batch) if fit is None else (batch,) * fit.batched + fit.shape
    dtype = np.dtype(spec.dtype)
    if isinstance(described, ImageInput):
        values = rng.uniform(*described.limits, shape)
    elif dtype.kind != "f":
        values = np.zeros(shape)
    elif len(shape) == 4:
        values = rng.uniform(0, 1, shape)
    else:
        values = rng.standard_normal(shape)
        values = values / np.linalg.norm(values, axis=-1, keepdims=True) if values.ndim else np.abs(values)
    return np.ascontiguousarray(cast(values, spec.dtype, spec.name)).reshape(shape)


def _fit_input(described: InputSpec, spec: TensorSpec) -> Fit:
    try:
        return fit_input(described, spec, None)
    except ValueError as error:
        raise BadInputError(
            f"the engine is not what its preset says: {error}", "build the engine again with --force"
        ) from error


def _fix_shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    shape = list(spec.shape)
    if shape and not isinstance(shape[0], int):
        shape[0] = batch
    unknown = [str(axis) for axis in shape if not isinstance(axis, int)]
    if unknown:
        raise BadInputError(
            f"the size of the axis {', '.join(unknown)} of {spec} is not known",
            "profile an engine that trt-ff built (it knows its inputs), or export the model with fixed sizes",
        )
    return tuple(int(axis) for axis in shape)
