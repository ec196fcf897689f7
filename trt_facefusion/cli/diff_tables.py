"""What `trt-ff diff` shows: outputs, pictures, layers, and the answer last."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from trt_facefusion.cli import console
from trt_facefusion.cli.figures import format_decibels, format_figure, label_figure, list_judges
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.registry import list_shown_figures
from trt_facefusion.evaluation.comparison.handed_in import AgainstFile
from trt_facefusion.evaluation.comparison.layer_error import LayerError
from trt_facefusion.evaluation.comparison.outputs import OutputDifference
from trt_facefusion.evaluation.comparison.result import DiffResult, LayerErrors
from trt_facefusion.evaluation.comparison.sides import CPU, GPU, STAND_IN

_RAN = {GPU: "on the GPU", CPU: "with onnxruntime on the CPU", STAND_IN: "typed ONNX on the CPU, standing in"}
_LEGEND = "adds: its own error, its inputs being those of A; came in: passed on from before; shows: both, at its output"
_BAR = 8
_FIRST_FIGURES = ("ssim_drop", "psnr_db", "identity_cosine")
_WIDE = 90
"""Columns of a terminal in which names of layers and operators leave room for bars."""
_SHARE_WORTH_RAISING = 0.1
_SMALLEST_GAIN = 5e-5
"""SSIM; below it a layer's gain is noise of a few faces."""


def show_difference(difference: DiffResult, top: int) -> None:
    """Everything that was found, the answer last."""
    for letter, side in (("A", difference.a), ("B", difference.b)):
        name, ran = (
            console.styled(letter, "bold"),
            console.styled(_RAN.get(side["ran"], f"with {side['ran']} on the CPU"), "dim"),
        )
        console.line(name, f"  {_name_side(side)}  ", ran)
    console.show(_tabulate_outputs(difference.outputs, difference.faces))
    if difference.picture is not None:
        console.show(_tabulate_picture(difference.picture))
    if difference.file is not None:
        console.show(_tabulate_file(difference.file))
    if difference.layers is not None:
        _show_layers(difference.layers, difference.picture, top)
    for check in difference.checks:
        mark = console.styled("kept    ", "green") if check.passed else console.styled("exceeded", "bold red")
        figure = "not finite" if check.value is None else f"{check.value:.3g}"
        text = f"{check.name}: {figure}, at most {check.limit:.3g} allowed"
        console.line(mark, f"  {text}")
    if difference.saved is not None:
        console.line(f"saved: polygraphy inspect data {difference.saved}/b")


def _name_side(side: dict[str, str]) -> str:
    """An engine's name; a bare file's path, since many are called alike."""
    return side["name"] if "/" in side["name"] else side["path"]


def _tabulate_outputs(outputs: tuple[OutputDifference, ...], faces: int) -> Table:
    title = f"Outputs of B against A, {faces} {'face' if faces == 1 else 'faces'}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    table.add_column("output", overflow="fold")
    for name in ("max error", "99 %", "mean", "median, relative", "PSNR, dB", "cosine"):
        table.add_column(name, justify="right")
    for output in outputs:
        table.add_row(
            console.plain(output.name),
            *(_format_error(error) for error in (output.max_abs, output.p99_abs, output.mean_abs)),
            _format_share(output.median_rel),
            format_decibels(output.psnr_db),
            "-" if output.cosine is None else f"{output.cosine:.6f}",
        )
        if output.nonfinite:
            table.add_row(console.styled(f"NaN or infinity on {output.nonfinite} faces", "red"), *[""] * 6)
    return table


def _tabulate_file(against: AgainstFile) -> Table:
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


def _tabulate_picture(accuracy: Accuracy) -> Table:
    table = Table(title="The picture", title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for name in ("", "mean", "worst face"):
        table.add_column(name, justify="right" if name else "left")
    for figure in list_shown_figures(_FIRST_FIGURES):
        pooled = accuracy.figures[figure.key]
        if pooled is not None and not figure.of_worst:
            worst = format_figure(figure, accuracy.figures[figure.worst_key]) if figure.worst_key is not None else ""
            table.add_row(label_figure(figure), format_figure(figure, pooled), worst)
    table.caption = console.plain("; ".join(list_judges(accuracy))) or None
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
        bar = [_draw_bar(error.added, largest)] if bars else []
        row: list[str | Text] = [
            *_describe_layer(error),
            *bar,
            _format_share(error.inherited),
            _format_share(error.total),
        ]
        if measured:
            row.append(f"{'◄ ' if error in worth else ''}{_format_gain(error.gain)}")
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
        names = ", ".join(f"{error.node.name} ({_format_gain(error.gain)} SSIM)" for error in worth)
        text = f"Raise first: {names}. Give them more precision in plan.yaml, and build with --plan."
        console.out.print(console.styled(text, "bold yellow"))
    elif not broken and any(error.gain is not None for error in errors):
        console.out.print("No single layer stands out: raising any of those gains the picture next to nothing.")


def _describe_layer(error: LayerError) -> tuple[str, str, str, str | Text]:
    node = error.node
    computed = node.precision
    if node.reference_precision not in {"fp32", node.precision}:
        computed = f"{node.reference_precision} -> {node.precision}"
    broken = console.styled(f"{error.nonfinite_added} not finite", "red")
    adds = broken if error.nonfinite_added else _format_share(error.added)
    return console.plain(node.name), console.plain(node.op), computed, adds


def _draw_bar(error: float | None, largest: float) -> Text:
    filled = round(_BAR * (error or 0.0) / largest) if largest else 0
    return Text("█" * filled, style="yellow")


def _format_gain(gain: float | None) -> str:
    if gain is None:
        return "-"
    return "0" if abs(gain) < _SMALLEST_GAIN else f"{gain:+.2%}"


def _format_share(share: float | None) -> str:
    if share is None:
        return "-"
    if share and share < 1e-4:
        return "< 0.01%"
    return f"{share:.2%}" if share < 10 else f"{share:.3g}x"


def _format_error(error: float | None) -> str:
    return "-" if error is None else f"{error:.3g}"
