"""`trt-ff diff`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.cli import console, options
from trt_facefusion.cli.diff_tables import show_difference
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.cli.model_choice import describe_preset, require_one_description
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.model.presets import Preset

TOLERANCE_EXCEEDED = 3

_INPUTS, _LAYERS, _TOLERANCES = (
    "How bare ONNX files are fed",
    "Layers",
    "Tolerances (exit code 3 when exceeded)",
)


@dataclass(frozen=True, kw_only=True)
class DiffRunOptions:
    """Which faces, and where the two run."""

    faces: Annotated[Path, typer.Option(help="Folder of photos to compare on.")]
    aligned: Annotated[bool, typer.Option("--aligned", help="The photos are aligned crops already.")] = False
    max_faces: Annotated[int, typer.Option(min=0, help="Compare on this many faces at most (0: all).")] = 64
    stand_in: Annotated[
        Optional[bool],
        typer.Option(
            "--stand-in/--no-stand-in",
            help="Run the typed ONNX of GPU engines on the CPU (else only where there is no GPU).",
        ),
    ] = None
    device: Annotated[int, typer.Option(min=0, help="Number of the GPU.")] = 0


@dataclass(frozen=True, kw_only=True)
class DiffInputOptions:
    """How bare ONNX files are fed; engines say it themselves."""

    preset: Annotated[
        Optional[str], typer.Option(help="A known generator (see `trt-ff presets`).", rich_help_panel=_INPUTS)
    ] = None
    inputs: Annotated[
        Optional[list[str]],
        typer.Option(
            "--input",
            help="One input of bare ONNX files, as for `build` (`trt-ff presets --syntax`); repeat it.",
            rich_help_panel=_INPUTS,
        ),
    ] = None
    picture: Annotated[
        Optional[str],
        typer.Option(
            "--picture", help="The output that is the picture: NAME[:MIN:MAX][:bgr|rgb].", rich_help_panel=_INPUTS
        ),
    ] = None
    embedder: Annotated[
        Optional[Path], typer.Option(help="ArcFace ONNX whose embeddings the generator takes.", rich_help_panel=_INPUTS)
    ] = None
    converter: Annotated[
        Optional[Path],
        typer.Option(help="ONNX that converts the embeddings first, as for `build`.", rich_help_panel=_INPUTS),
    ] = None


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """Whether layers are compared, and how many."""

    layers: Annotated[
        bool,
        typer.Option("--layers", help="Rank the layers by the error that each adds.", rich_help_panel=_LAYERS),
    ] = False
    layer_faces: Annotated[
        int, typer.Option(min=0, help="Compare layers on this many faces (0: all).", rich_help_panel=_LAYERS)
    ] = 8
    gains: Annotated[
        int,
        typer.Option(
            min=0, help="Measure for this many layers what raising them gains the picture.", rich_help_panel=_LAYERS
        ),
    ] = 12
    memory: Annotated[
        int,
        typer.Option(
            "--layer-memory",
            min=1,
            help="MiB of tensors held at a time; less takes longer.",
            rich_help_panel=_LAYERS,
        ),
    ] = 256
    top: Annotated[int, typer.Option(min=1, help="Show this many layers.", rich_help_panel=_LAYERS)] = 16


@dataclass(frozen=True, kw_only=True)
class ToleranceOptions:
    """What may differ."""

    max_ssim_drop: Annotated[
        Optional[float],
        typer.Option(min=0.0, max=1.0, help="Mean SSIM that B may lose.", rich_help_panel=_TOLERANCES),
    ] = None
    lpips_backbone: Annotated[
        Optional[Path],
        typer.Option(
            help="AlexNet's weights as torchvision has them: pictures are judged by the classic LPIPS, too.",
            rich_help_panel=_TOLERANCES,
        ),
    ] = None
    atol: Annotated[
        Optional[float],
        typer.Option(min=0.0, help="Largest absolute error of any output.", rich_help_panel=_TOLERANCES),
    ] = None


@expand_groups
def command(
    a: Annotated[Path, typer.Argument(help="The reference: an engine's folder or file, a typed ONNX or an FP32 ONNX.")],
    b: Annotated[Path, typer.Argument(help="What is held against it: any of these, too.")],
    execution: DiffRunOptions,
    inputs: DiffInputOptions,
    layers: LayerOptions,
    tolerances: ToleranceOptions,
    save: Annotated[
        Optional[Path],
        typer.Option(help="New folder for inputs and outputs (and one face's layers), as `polygraphy` opens them."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare two engines or ONNX models of one generator on faces.

    Shows the error of every output and what it does to the picture.

    With --layers also where it enters: what each layer adds when its inputs are exact, and what raising it gains.
    """
    settings = DiffSettings(
        a=a,
        b=b,
        faces=execution.faces,
        preset=_describe_inputs(inputs.preset, inputs.inputs or [], inputs.picture),
        aligned=execution.aligned,
        embedder=inputs.embedder,
        converter=inputs.converter,
        max_faces=execution.max_faces,
        stand_in=execution.stand_in,
        device=execution.device,
        layers=layers.layers,
        layer_faces=layers.layer_faces,
        raised=layers.gains,
        budget_bytes=layers.memory << 20,
        max_ssim_drop=tolerances.max_ssim_drop,
        atol=tolerances.atol,
        lpips_backbone=tolerances.lpips_backbone,
        save=save,
    )
    with console.progress_bar() as (progress, note):
        difference = diff(settings, progress, note)
    if as_json:
        console.print_json(difference.as_dict())
    else:
        show_difference(difference, layers.top)
    if not difference.passed:
        raise typer.Exit(TOLERANCE_EXCEEDED)


def _describe_inputs(name: str | None, inputs: list[str], picture: str | None) -> Preset | None:
    require_one_description(name, inputs)
    if picture is not None and name is None and not inputs:
        raise BadInputError("--picture is for bare ONNX files", "describe their inputs, too, with --preset or --input")
    return describe_preset(name, inputs, picture)
