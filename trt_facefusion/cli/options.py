"""Which model the options name and what its inputs are, and the settings of a build that the options give."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from trt_facefusion.build.effort import find_level
from trt_facefusion.build.options import ACCURACY, MODEL, CalibrationOptions, EffortOptions, NetworkOptions
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.metric import Limit
from trt_facefusion.model.export import CheckpointSource, ModelSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import Preset, get_preset, parse_input
from trt_facefusion.model.presets.fit import suggestions
from trt_facefusion.model.presets.syntax import INPUT_SYNTAX
from trt_facefusion.quantization.calibration.thresholds import parse_rule
from trt_facefusion.quantization.correction.kinds import parse_corrections

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which model, and how its inputs and its picture are described."""

    onnx: Annotated[
        Optional[Path], typer.Option(help="The generator as ONNX (else the bundled one).", rich_help_panel=MODEL)
    ] = None
    checkpoint: Annotated[
        Optional[Path], typer.Option(help="The generator's weights (with --model).", rich_help_panel=MODEL)
    ] = None
    model: Annotated[
        Optional[str], typer.Option(help="module:factory that makes the checkpoint's network.", rich_help_panel=MODEL)
    ] = None
    weights_key: Annotated[
        Optional[str],
        typer.Option(
            help="Which weights of the checkpoint: a key (params_ema, state_dict/netG) or how their names begin "
            "(netG.); else averaged weights (EMA) where there are any.",
            rich_help_panel=MODEL,
        ),
    ] = None
    preset: Annotated[
        Optional[str], typer.Option(help="A known generator (see `trt-ff presets`).", rich_help_panel=MODEL)
    ] = None
    inputs: Annotated[
        Optional[list[str]],
        typer.Option(
            "--input",
            help="One of the model's inputs: NAME=image:SIZE:MIN:MAX[:OPTION...], NAME=embedding, "
            "NAME=file:VALUES.npy or NAME=value:NUMBER (`trt-ff presets --syntax` explains all).",
            rich_help_panel=MODEL,
        ),
    ] = None
    picture: Annotated[
        Optional[str],
        typer.Option(
            "--picture", help="The output that is the picture: NAME[:MIN:MAX][:bgr|rgb].", rich_help_panel=MODEL
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(NetworkOptions, SourceOptions):
    """All that describes the model."""


def read_settings(model: ModelOptions, *groups: Any, **own: Any) -> BuildSettings:
    """The settings that a command's groups of options give; ``own`` are those that are not an option as it stands.

    Raises:
        BadInputError: the options name no model or two, or do not describe its inputs.
    """
    source = choose_source(model.onnx, model.checkpoint, model.model, model.weights_key)
    preset = choose_preset(source, model.preset, model.inputs or [], model.picture)
    shared = {name: value for group in (model, *groups) for name, value in _shared_values(group)}
    return BuildSettings(source=source, preset=preset, **shared, **own)


def _shared_values(group: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every option in ``group``, and in groups that it holds, that settings inherit."""
    for base in type(group).__mro__:
        if base is not BuildSettings and is_dataclass(base) and issubclass(BuildSettings, base):
            yield from ((field.name, getattr(group, field.name)) for field in fields(base))
    for field in fields(group):
        if is_dataclass(value := getattr(group, field.name)):
            yield from _shared_values(value)


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, whose parameter ``limits`` becomes an option for each limit that a metric offers."""
    offered = {limit.name: limit for _, limit in registry.limits() if limit.help is not None}
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        values = {name: given.pop(name) for name in offered}
        command(**given, limits={name: value for name, value in values.items() if value is not None})

    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        replaced = [_limit_option(limit) for limit in offered.values()]
        parameters += replaced if parameter.name == "limits" else [parameter.replace(kind=parameter.KEYWORD_ONLY)]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def _limit_option(limit: Limit) -> inspect.Parameter:
    option = typer.Option(limit.option, min=limit.least, max=limit.most, help=limit.help, rich_help_panel=ACCURACY)
    return inspect.Parameter(
        limit.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Optional[float], option]
    )


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
        takes, example = f". The model takes {'; '.join(map(str, specs))}", suggestions(specs)
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


def check_options(calibration: CalibrationOptions, effort: EffortOptions, limits: Mapping[str, int]) -> None:
    """Raise `BadInputError` for a rule, correction or level that does not exist, or a limit of faces that leaves one.

    ``limits`` are numbers of faces by option.
    """
    parse_corrections(calibration.corrections)
    if calibration.rule != "auto":
        parse_rule(calibration.rule)
    for name, limit in limits.items():
        if limit == 1:
            raise BadInputError(f"{name} 1 leaves nobody to swap with", f"use {name} 0 for all, or 2 and more")
    find_level(effort.effort)
