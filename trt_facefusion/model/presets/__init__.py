"""What a generator expects: its inputs, crop template, normalisation, source embedding and image output.

`preset` is the description, `inputs` and `output` are its parts. It comes from a file of a known generator (`library`,
``builtin/*.yaml``), from ``--input`` and ``--picture`` (`syntax`), or from an engine's folder (`contract`); `document`
reads and writes it. `fit` holds it against the tensors that a network takes.
"""

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
