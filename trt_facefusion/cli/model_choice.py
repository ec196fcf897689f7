"""Which model the options name, and how its inputs are described."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.export import CheckpointSource, ModelSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import Preset, get_preset, parse_input
from trt_facefusion.model.presets.fit import suggest_inputs
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
        return described
    if isinstance(source, ReferenceSource):
        return get_preset("reference")
    takes, example = "", INPUT_SYNTAX
    if isinstance(source, OnnxSource):
        from trt_facefusion.model.graph import read_input_specs

        specs = read_input_specs(source.model)
        takes, example = f". The model takes {'; '.join(map(str, specs))}", suggest_inputs(specs)
    raise BadInputError(
        f"nothing says what the inputs of {source.name} are{takes}",
        f"name a --preset, or describe each input, perhaps with {example}",
    )


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
