"""What a generator expects: its inputs, crop template, normalisation, source embedding and image output.

A description comes from the file of a known generator (``builtin/*.yaml``: a new preset is one file), from ``--input``
and ``--picture``, or from an engine's folder. It is all that feeding a network and reading its picture needs, whoever
does it: calibration, verification, and whoever runs an engine later. Its ``repr`` is part of the keys of engines, so
what is added to descriptions is not mentioned where it is not used.

It may import `model.messages`, `storage` and the ground.

Modules, from the ground up:

    terse        descriptions that do not mention what was added to them later and is not used
    inputs       what fills one network input, and how a crop becomes its tensor
    output       which output is the picture, and how its tensor becomes one
    syntax       the words of ``--input`` and ``--picture``, read and written
    hints        what plans must heed that neither the graph nor a few faces show
    preset       all of it together, known or described by a user
    fit          how described inputs fit the tensors that a network takes; what to write if they do not
    binding      a known generator's description -> that of one file: names, sizes
    document     a preset as a document, decoded strictly
    contract     a preset with its values as files: what an engine's folder holds
    library      the known generators, read when one is asked for; a user's own files
    recognition  which known generator a file is, by its digest, size and graph

Start with `preset.py`, then `inputs.py`.
"""

from trt_facefusion.model.presets.hints import PlanHint
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
    "PlanHint",
    "Preset",
    "ValueInput",
    "get_preset",
    "parse_input",
]
