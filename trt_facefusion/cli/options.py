"""Options that several commands share, and the settings of a build that the options give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from trt_facefusion.build.effort import find_level
from trt_facefusion.build.options import MODEL, CalibrationOptions, EffortOptions, NetworkOptions
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.cli.model_choice import choose_preset, choose_source
from trt_facefusion.errors import BadInputError
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
    shared = dict(option for group in (model, *groups) for option in _iterate_shared(group))
    return BuildSettings(source=source, preset=preset, **shared, **own)


def _iterate_shared(group: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every option in ``group``, and in groups that it holds, that settings inherit."""
    for base in type(group).__mro__:
        if base is not BuildSettings and is_dataclass(base) and issubclass(BuildSettings, base):
            yield from ((field.name, getattr(group, field.name)) for field in fields(base))
    for field in fields(group):
        if is_dataclass(inner := getattr(group, field.name)):
            yield from _iterate_shared(inner)


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
