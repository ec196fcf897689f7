"""Which model the options name, and how its inputs are described."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.cli import console
from trt_facefusion.errors import BadInputError
from trt_facefusion.inference.file_facts import read_file_facts
from trt_facefusion.model.export import CheckpointSource, ModelSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import Preset, get_preset, parse_input
from trt_facefusion.model.presets.binding import bind_preset, is_open
from trt_facefusion.model.presets.fit import suggest_inputs
from trt_facefusion.model.presets.recognition import recognise
from trt_facefusion.model.presets.syntax import INPUT_SYNTAX


def choose_source(
    onnx: Path | None, checkpoint: Path | None, model: str | None, weights_key: str | None = None
) -> ModelSource:
    """The model that the options name; the bundled one if they name none."""
    if onnx is not None and checkpoint is not None:
        raise BadInputError("both --onnx and --checkpoint are given", "name one model")
    if weights_key is not None and checkpoint is None:
        raise BadInputError("--weights-key chooses from a checkpoint, and none is named", "add --checkpoint FILE")
    if onnx is not None:
        return OnnxSource(onnx)
    if checkpoint is not None:
        if model is None:
            raise BadInputError(
                "--checkpoint needs the network it belongs to",
                "add --model module:factory, for example nets.swap:build",
            )
        return CheckpointSource(checkpoint, model, weights_key)
    if model is not None:
        raise BadInputError("--model needs the weights", "add --checkpoint FILE")
    return ReferenceSource()


def choose_preset(source: ModelSource, name: str | None, inputs: list[str], picture: str | None = None) -> Preset:
    """How the model is fed: a named preset, or the inputs as they are described; and which output is the picture."""
    require_one_description(name, inputs)
    if isinstance(source, ReferenceSource) and (inputs or picture or name not in {None, source.name}):
        raise BadInputError(
            "--preset, --input and --picture describe a model, but none is named",
            "add --onnx FILE or --checkpoint FILE",
        )
    described = describe_preset(name, inputs, picture)
    if described is not None:
        return bind_to_file(described, source)
    if isinstance(source, ReferenceSource):
        return get_preset("reference")
    takes, example = "", INPUT_SYNTAX
    if isinstance(source, OnnxSource):
        from trt_facefusion.model.graph import read_input_specs

        recognised = recognise_file(source)
        if recognised is not None:
            return recognised.with_picture(picture)
        specs = read_input_specs(source.model)
        takes, example = f". The model takes {'; '.join(map(str, specs))}", suggest_inputs(specs)
    raise BadInputError(
        f"nothing says what the inputs of {source.name} are{takes}",
        f"name a --preset, or describe each input, perhaps with {example}",
    )


def bind_to_file(preset: Preset, source: ModelSource) -> Preset:
    """``preset`` with the names and sizes that an ONNX file has, where it leaves them to the file."""
    from trt_facefusion.model.graph import read_input_specs

    if not isinstance(source, OnnxSource) or not is_open(preset):
        return preset
    return bind_preset(preset, read_input_specs(source.model))


def recognise_file(source: OnnxSource) -> Preset | None:
    """The known generator that an ONNX file is, told to whoever watches; None where it is none.

    Raises:
        BadInputError: it may be several that are fed differently.
    """
    recognition = recognise(read_file_facts(source))
    if recognition.ambiguous:
        names = [candidate.preset.name for candidate in recognition.candidates]
        raise BadInputError(
            f"{source.path.name} may be one of {len(names)} known generators, which are fed differently: "
            f"{recognition.describe()}",
            f"say which one: {' or '.join(f'--preset {name}' for name in names)}",
        )
    if recognition.preset is not None:
        candidate = recognition.candidates[0]
        console.note(f"taken for {candidate.preset.name}: {candidate.why}; --preset says it outright")
    return recognition.preset


def require_one_description(name: str | None, inputs: list[str]) -> None:
    """Raise `BadInputError` where a preset is named and inputs are described, too."""
    if name is not None and inputs:
        raise BadInputError("both --preset and --input are given", "describe the inputs in one way")


def describe_preset(name: str | None, inputs: list[str], picture: str | None) -> Preset | None:
    """The preset called ``name``, or the one that ``inputs`` describe; None without either.

    Raises:
        BadInputError: there is no such preset, or a description is not understood.
    """
    if name is not None:
        return get_preset(name).with_picture(picture)
    return Preset.from_inputs([parse_input(text) for text in inputs], picture) if inputs else None
