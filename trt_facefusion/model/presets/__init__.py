"""What a generator expects: its inputs, crop template, normalisation, source embedding and image output.

A description comes from the file of a known generator (``builtin/*.yaml``), from ``--input`` and ``--picture``, or from
an engine's folder. Its text is part of the keys of stored engines, so a field that is added later is not mentioned
where it is not used (`terse`).

May import the ground and `storage`.

Modules, from the ground up; each imports only those above it in this list:

    terse       descriptions that do not mention what was added later and is not used
    inputs      what fills one input, and how crops become its tensor
    output      which output is the picture, and how its tensor becomes one
    syntax      the words of ``--input`` and ``--picture``, read and written
    preset      all inputs and the picture of a generator (`Preset`)
    document    a preset as a document, read strictly
    fit         a preset against the tensors that a network takes
    contract    a preset with its values as files, beside an engine
    library     the known presets, a file each

Start reading at `preset.Preset`; a new known generator is one file in ``builtin/``.
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
