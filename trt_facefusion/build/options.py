"""Options that several commands share, and that are settings of a build under the same name: each is declared once.

A group is a dataclass. Its fields say type, default and help (typer's own words for an option), and what they have to
do with the key of an engine. `cli.groups` makes the options of a command of them, `build.settings.BuildSettings`
inherits them, `build.rebuild_command` writes them, and so a new option is one field here.

The order of the fields is that of ``--help``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from trt_facefusion.build import forms as named_forms
from trt_facefusion.build.effort import AUTO, MINUTES
from trt_facefusion.engine.backends.registry import list_names
from trt_facefusion.quantization.calibration.thresholds import describe_rule_syntax
from trt_facefusion.quantization.correction.kinds import CHANNEL_CORRECTIONS, LAYER_CORRECTIONS

MODEL, FACES, ENGINE, ACCURACY = "Model", "Faces", "Engine", "Accuracy"
"""Headings of ``--help``."""


class KeyRole(enum.Enum):
    """What a setting has to do with the key that says whether an engine is up to date."""

    ADDED = "added"
    """It is part of the key wherever it has not its default, so that keys from before there was such a setting stay
    right. What declares nothing is this: an engine that is built once too often is better than a wrong one."""
    SPELLED = "spelled"
    """`build.settings.compute_engine_key` has it in a form of its own, or the key has a digest of what it names."""


@dataclass(frozen=True)
class OutsideKey:
    """A setting that does not change what an engine is, and why."""

    reason: str


_SPELLED = KeyRole.SPELLED
_CORRECTIONS = (*CHANNEL_CORRECTIONS, *LAYER_CORRECTIONS)


def _list_backends() -> str:
    *names, last = ("auto", *list_names())
    return f"{', '.join(names)} or {last}"


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """Photos to calibrate on, and photos to judge on."""

    calib: Annotated[Path, typer.Option(help="Folder of photos to calibrate on.", rich_help_panel=FACES), _SPELLED]
    eval: Annotated[
        Path | None,
        typer.Option(
            "--eval", help="Folder of photos to judge on (else some of --calib are held out).", rich_help_panel=FACES
        ),
        _SPELLED,
    ] = None


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """How faces are taken from photos, and how many are calibrated on; 0 takes every face."""

    aligned: Annotated[
        bool,
        typer.Option("--aligned", help="The photos are aligned crops already.", rich_help_panel=FACES),
        _SPELLED,
    ] = False
    max_calib: Annotated[
        int,
        typer.Option(min=0, help="Calibrate on this many faces at most (0: all).", rich_help_panel=FACES),
        _SPELLED,
    ] = 300


@dataclass(frozen=True, kw_only=True)
class FaceOptions(CropOptions, PhotoOptions):
    """Faces to calibrate on, and faces to judge on."""

    max_eval: Annotated[
        int, typer.Option(min=0, help="Judge on this many faces at most (0: all).", rich_help_panel=FACES), _SPELLED
    ] = 128


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What a network needs beside its file. ``noise`` fixes random nodes (`model.graph.noise.parse_noise`)."""

    embedder: Annotated[
        Path | None,
        typer.Option(
            help="ONNX of the ArcFace network whose vectors the generator takes (512 values: inswapper, SimSwap, ...). "
            "Not needed where it takes the bundled embedder's (dlib, 128 values), or takes no identity.",
            rich_help_panel=MODEL,
        ),
        _SPELLED,
    ] = None
    converter: Annotated[
        Path | None,
        typer.Option(
            help="ONNX that turns the embedder's vectors into those of the recogniser the generator was trained with "
            "(crossface_simswap and the like), where a preset asks for one.",
            rich_help_panel=MODEL,
        ),
        _SPELLED,
    ] = None
    noise: Annotated[
        str | None,
        typer.Option(
            help="Fix the network's noise nodes: zero, or seed (seed:NUMBER) for noise that is always the same.",
            rich_help_panel=MODEL,
        ),
        _SPELLED,
    ] = None


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """For which machine, and by which backend."""

    target: Annotated[
        str | None, typer.Option(help="sm86 (A10G) and the like, or cpu.", rich_help_panel=ENGINE), _SPELLED
    ] = None
    backend: Annotated[str, typer.Option(help=f"{_list_backends()}.", rich_help_panel=ENGINE), _SPELLED] = "auto"
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Predict times for this GPU, like a10g or rtx3090 (else for one of the target).",
            rich_help_panel=ENGINE,
        ),
    ] = None
    forms: Annotated[
        str,
        typer.Option(
            help="How the graph is written for the compiler: auto, or some of "
            f"{','.join(named_forms.FORMS)}; no- in front leaves one out.",
            rich_help_panel=ENGINE,
        ),
    ] = named_forms.AUTO


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How thresholds are set, and what is corrected in the network beside them."""

    rule: Annotated[str, typer.Option(help=describe_rule_syntax(), rich_help_panel=ACCURACY), _SPELLED] = "auto"
    corrections: Annotated[
        str,
        typer.Option(help=f"auto, none, or some of {','.join(_CORRECTIONS)}.", rich_help_panel=ACCURACY),
        _SPELLED,
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class RangeOptions(CalibrationOptions):
    """Where the ranges of INT8 come from. ``table`` is a calibration cache to use instead of calibrating."""

    table: Annotated[
        Path | None,
        typer.Option(
            "--calib-cache",
            help="Use this calibration cache as it is (also one that TensorRT made).",
            rich_help_panel=ACCURACY,
        ),
        _SPELLED,
    ] = None


@dataclass(frozen=True, kw_only=True)
class AccuracyOptions:
    """What INT8 may cost, and how a plan that keeps to it is searched; ``search_faces`` 0 leaves their number open."""

    limits: Annotated[Mapping[str, float], _SPELLED] = field(default_factory=dict)
    """Limits by name that an INT8 engine has to keep beside the usual ones, or in their place. On the command line one
    option for each that a metric offers (`cli.options.with_limits`)."""
    lpips_backbone: Annotated[
        Path | None,
        typer.Option(
            help="AlexNet's weights as torchvision has them: pictures are judged by the classic LPIPS (package lpips).",
            rich_help_panel=ACCURACY,
        ),
        OutsideKey("it judges; what a limit measures by has its digest in the key"),
    ] = None
    objective: Annotated[
        str,
        typer.Option(
            help="What the plan search makes least of: time (predicted from kernels), macs (arithmetic that is not in "
            "INT8), size (bytes of weights) or auto (time where engines compile in seconds, else macs).",
            rich_help_panel=ACCURACY,
        ),
    ] = "auto"
    repairs: Annotated[
        int,
        typer.Option(min=0, max=10, help="Rounds of raising layers before falling back.", rich_help_panel=ACCURACY),
        _SPELLED,
    ] = 3
    search_faces: Annotated[
        int,
        typer.Option(
            min=0,
            help="Measure plans on this many calibration faces (0: as many as take minutes).",
            rich_help_panel=ACCURACY,
        ),
        _SPELLED,
    ] = 0


@dataclass(frozen=True, kw_only=True)
class EffortOptions:
    """How much is tried: a level of `build.effort`, or ``auto``, which fits into ``minutes`` or so (0: no limit)."""

    effort: Annotated[
        str,
        typer.Option(
            help="How much is tried: auto (what --time allows), full, reduced or least.", rich_help_panel=ACCURACY
        ),
        _SPELLED,
    ] = AUTO
    minutes: Annotated[
        float,
        typer.Option(
            "--time",
            min=0,
            help="Minutes the build may take; what is tried is cut to it (0: all).",
            rich_help_panel=ACCURACY,
        ),
        _SPELLED,
    ] = MINUTES


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Where what takes long is kept."""

    cache: Annotated[
        Path,
        typer.Option(help="Where calibrations are stored."),
        OutsideKey("it holds what the same settings would compute again"),
    ] = Path("calib_cache")


def read_defaults(settings: type[Any]) -> Mapping[str, Any]:
    """The default of every field of a dataclass that has one, by the field's name."""
    from_factories = {f.name: f.default_factory() for f in fields(settings) if f.default_factory is not MISSING}
    return from_factories | {f.name: f.default for f in fields(settings) if f.default is not MISSING}


def read_key_roles(settings: type[Any]) -> Mapping[str, KeyRole | OutsideKey]:
    """Of every field of a dataclass what it has to do with the key, by name."""
    hints = get_type_hints(settings, include_extras=True)
    return {name: _find_annotation(hint, (KeyRole, OutsideKey)) or KeyRole.ADDED for name, hint in hints.items()}


def read_option_names(settings: type[Any]) -> Mapping[str, str]:
    """The option on the command line of every field of a dataclass that has one, by the field's name."""
    hints = get_type_hints(settings, include_extras=True)
    options = {name: _find_annotation(hint, OptionInfo) for name, hint in hints.items()}
    return {name: _read_option_name(name, option) for name, option in options.items() if option is not None}


def _find_annotation(hint: Any, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """What of ``kind`` stands in an ``Annotated`` hint, or None."""
    return next((extra for extra in get_args(hint)[1:] if isinstance(extra, kind)), None)


def _read_option_name(name: str, option: OptionInfo) -> str:
    declared = [option.default, *(option.param_decls or ())]  # in Annotated the first name stands where a default would
    names = (text for text in declared if isinstance(text, str) and text.startswith("--"))
    return next(names, "--" + name.replace("_", "-"))
