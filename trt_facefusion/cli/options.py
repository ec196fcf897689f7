"""Options that several commands share: which model, what its inputs are, which faces."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.metric import Limit
from trt_facefusion.model.export import CheckpointSource, ModelSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import Preset, get_preset, parse_input
from trt_facefusion.model.presets.fit import suggestions
from trt_facefusion.model.presets.syntax import INPUT_SYNTAX
from trt_facefusion.quantization.calibration.thresholds import parse_rule, rule_syntax
from trt_facefusion.quantization.correction.kinds import parse_corrections

MODEL, FACES, ENGINE, ACCURACY = "Model", "Faces", "Engine", "Accuracy"

Calib = Annotated[Path, typer.Option(help="Folder of photos to calibrate on.", rich_help_panel=FACES)]
Evaluation = Annotated[
    Optional[Path],
    typer.Option(
        "--eval", help="Folder of photos to judge on (else some of --calib are held out).", rich_help_panel=FACES
    ),
]
Aligned = Annotated[
    bool, typer.Option("--aligned", help="The photos are aligned crops already.", rich_help_panel=FACES)
]
MaxCalib = Annotated[
    int, typer.Option(min=0, help="Calibrate on this many faces at most (0: all).", rich_help_panel=FACES)
]
Onnx = Annotated[
    Optional[Path], typer.Option(help="The generator as ONNX (else the bundled one).", rich_help_panel=MODEL)
]
Checkpoint = Annotated[
    Optional[Path], typer.Option(help="The generator's weights (with --model).", rich_help_panel=MODEL)
]
Factory = Annotated[
    Optional[str], typer.Option(help="module:factory that makes the checkpoint's network.", rich_help_panel=MODEL)
]
WeightsKey = Annotated[
    Optional[str],
    typer.Option(
        help="Which weights of the checkpoint: a key (params_ema, state_dict/netG) or how their names begin (netG.); "
        "else averaged weights (EMA) where there are any.",
        rich_help_panel=MODEL,
    ),
]
PresetName = Annotated[
    Optional[str], typer.Option(help="A known generator (see `trt-ff presets`).", rich_help_panel=MODEL)
]
Inputs = Annotated[
    Optional[list[str]],
    typer.Option(
        "--input",
        help="One of the model's inputs: NAME=image:SIZE:MIN:MAX[:OPTION...], NAME=embedding, NAME=file:VALUES.npy or "
        "NAME=value:NUMBER (`trt-ff presets --syntax` explains all).",
        rich_help_panel=MODEL,
    ),
]
Picture = Annotated[
    Optional[str],
    typer.Option("--picture", help="The output that is the picture: NAME[:MIN:MAX][:bgr|rgb].", rich_help_panel=MODEL),
]
EmbedderFile = Annotated[
    Optional[Path],
    typer.Option(
        help="ONNX of the ArcFace network whose vectors the generator takes (512 values: inswapper, SimSwap, ...). "
        "Not needed where it takes the bundled embedder's (dlib, 128 values), or takes no identity.",
        rich_help_panel=MODEL,
    ),
]
Noise = Annotated[
    Optional[str],
    typer.Option(
        help="Fix the network's noise nodes: zero, or seed (seed:NUMBER) for noise that is always the same.",
        rich_help_panel=MODEL,
    ),
]
Rule = Annotated[str, typer.Option(help=rule_syntax(), rich_help_panel=ACCURACY)]
Corrections = Annotated[
    str,
    typer.Option(help="auto, none, or some of equalise,shift,scales,rounding,bias.", rich_help_panel=ACCURACY),
]
MaxEval = Annotated[int, typer.Option(min=0, help="Judge on this many faces at most (0: all).", rich_help_panel=FACES)]
CalibCache = Annotated[
    Optional[Path],
    typer.Option(
        "--calib-cache",
        help="Use this calibration cache as it is (also one that TensorRT made).",
        rich_help_panel=ACCURACY,
    ),
]
NamedLimits = Mapping[str, float]
"""Limits by their names, from the options that `with_limits` makes of a parameter of this type."""
Repairs = Annotated[
    int,
    typer.Option(min=0, max=10, help="Rounds of raising layers before falling back.", rich_help_panel=ACCURACY),
]
SearchFaces = Annotated[
    int,
    typer.Option(
        min=0,
        help="Measure plans on this many calibration faces (0: as many as take minutes).",
        rich_help_panel=ACCURACY,
    ),
]
Effort = Annotated[
    str,
    typer.Option(
        help="How much is tried: auto (what --time allows), full, reduced or least.", rich_help_panel=ACCURACY
    ),
]
Minutes = Annotated[
    float,
    typer.Option(
        "--time",
        min=0,
        help="Minutes the build may take; what is tried is cut to it (0: all).",
        rich_help_panel=ACCURACY,
    ),
]
Target = Annotated[Optional[str], typer.Option(help="sm86 (A10G) and the like, or cpu.", rich_help_panel=ENGINE)]
Backend = Annotated[str, typer.Option(help="auto, tensorrt, tensorrt-rtx or onnxruntime.", rich_help_panel=ENGINE)]
Cache = Annotated[Path, typer.Option(help="Where calibrations are stored.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


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


def source_of(
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


def preset_of(source: ModelSource, name: str | None, inputs: list[str], picture: str | None = None) -> Preset:
    """How the model is fed: a named preset, or the inputs as they are described; and which output is the picture."""
    if name is not None and inputs:
        raise BadInputError("both --preset and --input are given", "describe the inputs in one way")
    if isinstance(source, ReferenceSource) and (inputs or picture or name not in {None, source.name}):
        raise BadInputError(
            "--preset, --input and --picture describe a model, but none is named",
            "add --onnx FILE or --checkpoint FILE",
        )
    if name is not None:
        return get_preset(name).with_picture(picture)
    if inputs:
        return Preset.from_inputs([parse_input(text) for text in inputs], picture)
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


def check_numbers(rule: str, corrections: str, limits: dict[str, int]) -> None:
    """Raise `BadInputError` for a rule or correction that does not exist, or a limit of faces that leaves one."""
    parse_corrections(corrections)
    if rule != "auto":
        parse_rule(rule)
    for name, limit in limits.items():
        if limit == 1:
            raise BadInputError(f"{name} 1 leaves nobody to swap with", f"use {name} 0 for all, or 2 and more")
