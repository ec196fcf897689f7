"""A known generator's description -> that of one file: the names it gives its inputs, and the size of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets.fit import fit_input, suggest_inputs
from trt_facefusion.model.presets.inputs import OF_THE_FILE, FileInput, ImageInput, InputSpec, ValueInput
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.types import TensorSpec


def is_open(preset: Preset) -> bool:
    """Whether ``preset`` leaves something to the file: names, a size, or an input that not every file has."""
    return any(_is_open(spec) for spec in preset.inputs)


def _is_open(spec: InputSpec) -> bool:
    if isinstance(spec, FileInput):
        return False
    return bool(spec.also) or is_optional(spec) or (isinstance(spec, ImageInput) and spec.size == OF_THE_FILE)


def is_optional(spec: InputSpec) -> bool:
    """Whether a file may lack the input."""
    return isinstance(spec, ValueInput) and spec.optional


def list_names(spec: InputSpec) -> tuple[str, ...]:
    """The names that files give an input, the usual one first."""
    return (spec.name,) if isinstance(spec, FileInput) else (spec.name, *spec.also)


def bind_preset(preset: Preset, takes: Sequence[TensorSpec]) -> Preset:
    """``preset`` as it describes a file that takes ``takes``.

    An input is bound by one of its names, never by its place; one of another name where its shape leaves no choice.
    What is not in the file and is not optional stays as it is: `fit.fit_inputs` tells of it.

    Raises:
        BadInputError: the size of an image is left to the file, and the file leaves it open.
    """
    if not is_open(preset) and {spec.name for spec in preset.inputs} == {spec.name for spec in takes}:
        return preset
    by_name = {spec.name: spec for spec in takes}
    bound: dict[InputSpec, TensorSpec] = {}
    for spec in preset.inputs:
        name = next((name for name in list_names(spec) if name in by_name), None)
        if name is not None:
            bound[spec] = by_name[name]
    bound |= _bind_by_shape([s for s in preset.inputs if s not in bound], [t for t in takes if t not in bound.values()])
    inputs = (
        _settle(spec, bound[spec]) if spec in bound else spec
        for spec in preset.inputs
        if spec in bound or not is_optional(spec)
    )
    return replace(preset, inputs=tuple(inputs))


def _bind_by_shape(specs: Sequence[InputSpec], takes: Sequence[TensorSpec]) -> dict[InputSpec, TensorSpec]:
    """Of inputs whose names nobody knows those that fit one tensor only, which nothing else fits."""
    fitting = {spec: [tensor for tensor in takes if _fits(spec, tensor)] for spec in specs}
    alone = {spec: tensors[0] for spec, tensors in fitting.items() if len(tensors) == 1}
    return {spec: tensor for spec, tensor in alone.items() if list(alone.values()).count(tensor) == 1}


def _fits(spec: InputSpec, tensor: TensorSpec) -> bool:
    try:
        fit_input(_settle(spec, tensor), tensor, None)
    except (ValueError, BadInputError):
        return False
    return True


def _settle(spec: InputSpec, tensor: TensorSpec) -> InputSpec:
    """``spec`` called like ``tensor``, and of its size where that is left to the file."""
    if isinstance(spec, FileInput):
        return spec
    if isinstance(spec, ValueInput):
        return replace(spec, name=tensor.name, also=(), optional=False)
    if not isinstance(spec, ImageInput):
        return replace(spec, name=tensor.name, also=())
    size = _read_size(spec, tensor) if spec.size == OF_THE_FILE else spec.size
    return replace(spec, name=tensor.name, also=(), size=size)


def _read_size(spec: ImageInput, tensor: TensorSpec) -> int:
    height, width = tensor.shape[-3:-1] if spec.nhwc else tensor.shape[-2:]
    if isinstance(height, int) and height == width:
        return height
    raise BadInputError(
        f"{tensor} does not say the size of the image, and the preset leaves it to the file",
        f"describe the inputs: {suggest_inputs([tensor])}",
    )
