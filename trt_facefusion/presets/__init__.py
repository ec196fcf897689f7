"""What a generator expects: its inputs, crop template, normalisation, source embedding and image output."""

from trt_facefusion.presets.inputs import EmbeddingInput, FileInput, ImageInput, ImageOutput, InputSpec, parse_input
from trt_facefusion.presets.preset import PRESETS, Preset, get_preset

__all__ = [
    "PRESETS",
    "EmbeddingInput",
    "FileInput",
    "ImageInput",
    "ImageOutput",
    "InputSpec",
    "Preset",
    "get_preset",
    "parse_input",
]
