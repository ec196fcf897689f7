"""Known generators as their usual files have them."""

from __future__ import annotations

from trt_facefusion.model.presets import EmbeddingInput, ImageInput, Preset, get_preset
from trt_facefusion.model.presets.binding import bind_preset
from trt_facefusion.types import TensorSpec

DFM_SIZE = 224
VECTOR = 512


def list_inputs(preset: Preset) -> list[TensorSpec]:
    """The inputs of the usual file of a known generator, with the first of the names that each may have."""
    takes = []
    for spec in preset.inputs:
        shape: tuple[int, ...] = (1,)
        if isinstance(spec, ImageInput):
            size = spec.size or DFM_SIZE
            shape = (1, size, size, 3) if spec.nhwc else (1, 3, size, size)
        elif isinstance(spec, EmbeddingInput):
            shape = (1, VECTOR if preset.embedder == "arcface" else 128)
        takes.append(TensorSpec(spec.name, shape, "float32"))
    return takes


def describe_usual_file(name: str) -> Preset:
    """The known generator ``name``, bound to its usual file."""
    preset = get_preset(name)
    return bind_preset(preset, list_inputs(preset))
