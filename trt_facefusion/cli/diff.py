"""`trt-ff diff`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from trt_facefusion.cli import console, options
from trt_facefusion.cli.figures import decibels, label, written
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.registry import shown_figures
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.handed_in import AgainstFile
from trt_facefusion.evaluation.comparison.layer_error import LayerError
from trt_facefusion.evaluation.comparison.outputs import OutputDifference
from trt_facefusion.evaluation.comparison.result import DiffResult, LayerErrors
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.evaluation.comparison.sides import CPU, GPU, STAND_IN
from trt_facefusion.model.presets import Preset

TOLERANCE_EXCEEDED = 3

_INPUTS, _LAYERS, _TOLERANCES = (
    "How bare ONNX files are fed",
    "Layers",
    "Tolerances (exit code 3 when exceeded)",
)
_RAN = {GPU: "on the GPU", CPU: "with onnxruntime on the CPU", STAND_IN: "typed ONNX on the CPU, standing in"}
_LEGEND = "adds: its own error, its inputs being those of A; came in: passed on from before; shows: both, at its output"
_BAR = 8
_FIRST_FIGURES = ("ssim_drop", "psnr_db", "identity_cosine")
_WIDE = 90
"""Columns of a terminal in which names of layers and operators leave room for bars."""
_SHARE_WORTH_RAISING = 0.1
_SMALLEST_GAIN = 5e-5
"""SSIM; below it a layer's gain is noise of a few faces."""


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
        preset=_preset(inputs.preset, inputs.inputs or [], inputs.picture),
        aligned=execution.aligned,
        embedder=inputs.embedder,
        max_faces=execution.max_faces,
        stand_in=execution.stand_in,
        device=execution.device,
        layers=layers.layers,
        layer_faces=layers.layer_faces,
        raised=layers.gains,
        budget_bytes=layers.memory << 20,
        max_ssim_drop=tolerances.max_ssim_drop,
        atol=tolerances.atol,
        save=save,
    )
    with console.progress_bar() as (progress, note):
        difference = diff(settings, progress, note)
    if as_json:
        console.print_json(difference.as_dict())
    else:
        show(difference, layers.top)
    if not difference.passed:
        raise typer.Exit(TOLERANCE_EXCEEDED)


def _preset(name: str | None, inputs: list[str], picture: str | None) -> Preset | None:
    options.require_one_description(name, inputs)
    if picture is not None and name is None and not inputs:
        raise BadInputError("--picture is for bare ONNX files", "describe their inputs, too, with --preset or --input")
    return options.describe_preset(name, inputs, picture)


def show(difference: DiffResult, top: int) -> None:
    """Everything that was found, the answer last."""
    for letter, side in (("A", difference.a), ("B", difference.b)):
        name, ran = (
            console.styled(letter, "bold"),
            console.styled(_RAN.get(side["ran"], f"with {side['ran']} on the CPU"), "dim"),
        )
        console.line(name, f"  {_called(side)}  ", ran)
    console.show(_outputs(difference.outputs, difference.faces))
    if difference.picture is not None:
        console.show(_picture(difference.picture))
    if difference.file is not None:
        console.show(_file(difference.file))
    if difference.layers is not None:
        _show_layers(difference.layers, difference.picture, top)
    for check in difference.checks:
        mark = console.styled("kept    ", "green") if check.passed else console.styled("exceeded", "bold red")
        figure = "not finite" if check.value is None else f"{check.value:.3g}"
        text = f"{check.name}: {figure}, at most {check.limit:.3g} allowed"
        console.line(mark, f"  {text}")
    if difference.saved is not None:
        console.line(f"saved: polygraphy inspect data {difference.saved}/b")


def _called(side: dict[str, str]) -> str:
    """An engine's name; a bare file's path, since many are called alike."""
    return side["name"] if "/" in side["name"] else side["path"]


def _outputs(outputs: tuple[OutputDifference, ...], faces: int) -> Table:
    title = f"Outputs of B against A, {faces} {'face' if faces == 1 else 'faces'}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    table.add_column("output", overflow="fold")
    for name in ("max error", "99 %", "mean", "median, relative", "PSNR, dB", "cosine"):
        table.add_column(name, justify="right")
    for output in outputs:
        table.add_row(
            console.plain(output.name),
            *(_number(error) for error in (output.max_abs, output.p99_abs, output.mean_abs)),
            _share(output.median_rel),
            decibels(output.psnr_db),
            "-" if output.cosine is None else f"{output.cosine:.6f}",
        )
        if output.nonfinite:
            table.add_row(console.styled(f"NaN or infinity on {output.nonfinite} faces", "red"), *[""] * 6)
    return table


def _file(against: AgainstFile) -> Table:
    table = Table(
        title=console.plain(f"Against {against.path}"),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
    )
    for name in ("", "SSIM drop", "worst face", "largest, of 255"):
        table.add_column(name, justify="right" if name else "left")
    for letter, figures in (("A", against.a), ("B", against.b)):
        levels = f"{255 * figures.max_difference:.2g}"
        table.add_row(letter, f"{figures.ssim_drop:.3%}", f"{figures.ssim_drop_worst:.3%}", levels)
    then = against.prepared or {}
    values = [then.get(key) for key in ("ssim_drop", "ssim_drop_worst", "max_difference")]
    drop, worst, largest = (float(v) if isinstance(v, int | float) else None for v in values)
    if drop is not None and worst is not None and largest is not None:
        table.add_row("prepared, when built", f"{drop:.3%}", f"{worst:.3%}", f"{255 * largest:.2g}")
    return table


def _picture(accuracy: Accuracy) -> Table:
    table = Table(title="The picture", title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for name in ("", "mean", "worst face"):
        table.add_column(name, justify="right" if name else "left")
    for figure in shown_figures(_FIRST_FIGURES):
        pooled = accuracy.figures[figure.key]
        if pooled is not None and not figure.of_worst:
            worst = written(figure, accuracy.figures[figure.worst_key]) if figure.worst_key is not None else ""
            table.add_row(label(figure), written(figure, pooled), worst)
    if accuracy.nonfinite:
        table.add_row(console.styled(f"NaN or infinity on {accuracy.nonfinite} faces", "red"), "", "")
    return table


def _show_layers(layers: LayerErrors, picture: Accuracy | None, top: int) -> None:
    shown = layers.errors[:top]
    worth = find_worth_raising(layers.errors, picture)
    measured = any(error.gain is not None for error in shown)
    bars = console.out.width >= _WIDE
    table = Table(
        title=f"Where the error enters, {layers.faces} faces",
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", overflow="fold")
    table.add_column("op", overflow="fold")
    table.add_column("in")
    table.add_column("adds", justify="right")
    if bars:
        table.add_column("", width=_BAR, no_wrap=True)
    table.add_column("came in", justify="right")
    table.add_column("shows", justify="right")
    if measured:
        table.add_column(console.lines("raising", "it gains"), justify="right")
    largest = max((error.added or 0.0 for error in shown), default=0.0)
    for error in shown:
        bar = [_bar(error.added, largest)] if bars else []
        row: list[str | Text] = [*_layer(error), *bar, _share(error.inherited), _share(error.total)]
        if measured:
            row.append(f"{'◄ ' if error in worth else ''}{_gain(error.gain)}")
        table.add_row(*row, style="bold yellow" if error in worth or error.nonfinite_added else "")
    console.show(table)
    rest = len(layers.errors) - len(shown)
    exact = sum(error.added == 0 for error in layers.errors)
    more = f"{rest} more {'tensor' if rest == 1 else 'tensors'}, " if rest else ""
    console.out.print(console.styled(f"{more}{exact} of {len(layers.errors)} add no error at all", "dim"))
    console.out.print(console.styled(_LEGEND, "dim"))
    if layers.reshaped:
        names = ", ".join(layers.reshaped[:3])
        console.out.print(console.styled(f"left out, of other shapes: {names}", "dim"))
    _advise(worth, layers.errors)


def find_worth_raising(errors: tuple[LayerError, ...], picture: Accuracy | None) -> list[LayerError]:
    """Layers whose raising wins a noticeable part of what the picture lost, the best first."""
    if picture is None:
        return []
    least = max(_SMALLEST_GAIN, _SHARE_WORTH_RAISING * picture.ssim_drop)
    return sorted((e for e in errors if (e.gain or 0.0) >= least), key=lambda error: -(error.gain or 0.0))


def _advise(worth: list[LayerError], errors: tuple[LayerError, ...]) -> None:
    broken = [error.node.name for error in errors if error.nonfinite_added]
    if broken:
        text = f"Values stop being finite in {', '.join(broken[:3])}: give them fp32 in plan.yaml."
        console.out.print(console.styled(text, "bold red"))
    if worth:
        names = ", ".join(f"{error.node.name} ({_gain(error.gain)} SSIM)" for error in worth)
        text = f"Raise first: {names}. Give them more precision in plan.yaml, and build with --plan."
        console.out.print(console.styled(text, "bold yellow"))
    elif not broken and any(error.gain is not None for error in errors):
        console.out.print("No single layer stands out: raising any of those gains the picture next to nothing.")


def _layer(error: LayerError) -> tuple[str, str, str, str | Text]:
    node = error.node
    computed = node.precision
    if node.reference_precision not in {"fp32", node.precision}:
        computed = f"{node.reference_precision} -> {node.precision}"
    broken = console.styled(f"{error.nonfinite_added} not finite", "red")
    adds = broken if error.nonfinite_added else _share(error.added)
    return console.plain(node.name), console.plain(node.op), computed, adds


def _bar(error: float | None, largest: float) -> Text:
    filled = round(_BAR * (error or 0.0) / largest) if largest else 0
    return Text("█" * filled, style="yellow")


def _gain(gain: float | None) -> str:
    if gain is None:
        return "-"
    return "0" if abs(gain) < _SMALLEST_GAIN else f"{gain:+.2%}"


def _share(share: float | None) -> str:
    if share is None:
        return "-"
    if share and share < 1e-4:
        return "< 0.01%"
    return f"{share:.2%}" if share < 10 else f"{share:.3g}x"


def _number(error: float | None) -> str:
    return "-" if error is None else f"{error:.3g}"
