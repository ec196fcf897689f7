"""`trt-ff export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.cli import console, options
from trt_facefusion.dropin.export import DropinRequest, export_dropin
from trt_facefusion.dropin.notes import Notes
from trt_facefusion.errors import BadInputError
from trt_facefusion.inference.open import open_model
from trt_facefusion.types import Precision

_TOOLS = ("onnxruntime",)


def command(
    engine: Annotated[Path, typer.Argument(help="An engine's folder, or a model's (see --precision).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, .onnx; notes go beside it.")],
    runtime: Annotated[str, typer.Option("--for", help="Who is to open it: onnxruntime.")] = _TOOLS[0],
    precision: Annotated[
        Optional[Precision], typer.Option(help="Which engine of a model's folder (else the cheapest).")
    ] = None,
    original: Annotated[
        Optional[Path], typer.Option(help="The file that the engine was made from, where it has moved.")
    ] = None,
    table: Annotated[
        Optional[Path],
        typer.Option(help="Also write the calibration table that TensorRT 10 takes through onnxruntime's provider."),
    ] = None,
    ranges: Annotated[
        Optional[Path], typer.Option("--calib-cache", help="The calibration cache that --table is made of.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write an engine as an ONNX that insightface, FaceFusion and Deep-Live-Cam open in the place of the original."""
    if runtime not in _TOOLS:
        raise BadInputError(f"--for {runtime} is not known", f"use {' or '.join(_TOOLS)}")
    if output.suffix != ".onnx":
        raise BadInputError(f"{output} is no .onnx file", "name a file that ends in .onnx")
    opened = open_model(engine, precision)
    for note in opened.notes:
        console.note(note)
    notes = export_dropin(opened, DropinRequest(output, original, table, ranges))
    if as_json:
        console.print_json(notes.as_dict())
        return
    _show(output, notes)


def _show(output: Path, notes: Notes) -> None:
    console.line(f"{output}: {notes.precision}, for onnxruntime {notes.runtime} and later; notes: {output.stem}.json")
    console.line(f"takes {'; '.join(map(str, notes.border.inputs))}")
    console.line(f"gives {'; '.join(map(str, notes.border.outputs))}")
    console.line(f"providers: {', '.join(notes.providers)}")
    difference = notes.difference
    console.line(
        f"against the engine, in onnxruntime {difference.runtime} with default options: "
        f"largest difference {difference.largest:.2g}, mean {difference.mean:.2g}"
    )
    for note in notes.describe():
        console.note(note)
