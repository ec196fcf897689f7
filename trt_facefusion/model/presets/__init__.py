"""What a generator expects: its inputs, crop template, normalisation, source embedding and image output."""

from trt_facefusion.model.presets.inputs import EmbeddingInput, FileInput, ImageInput, InputSpec, Part, ValueInput
from trt_facefusion.model.presets.library import PRESETS, get_preset
from trt_facefusion.model.presets.output import ImageOutput
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.model.presets.syntax import parse_input

__all__ = [
    "PRESETS",
    "EmbeddingInput",
    "FileInput",
    "ImageInput",
    "ImageOutput",
    "InputSpec",
    "Part",
    "Preset",
    "ValueInput",
    "get_preset",
    "parse_input",
]
