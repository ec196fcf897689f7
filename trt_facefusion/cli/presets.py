"""`trt-ff presets`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from trt_facefusion.cli import console
from trt_facefusion.faces.align import TEMPLATES
from trt_facefusion.model.presets import PRESETS, EmbeddingInput, FileInput, ImageInput
from trt_facefusion.model.presets.inputs import TARGET
from trt_facefusion.model.presets.syntax import INPUT_HELP


def command(
    syntax: Annotated[bool, typer.Option("--syntax", help="Explain --input and --picture instead.")] = False,
) -> None:
    """List the known generators and what each expects."""
    if syntax:
        text = INPUT_HELP.replace("TEMPLATES", ", ".join(TEMPLATES))
        console.out.print(console.lines(*text.splitlines()), soft_wrap=True)
        return
    table = Table(header_style="bold")
    for name in ("preset", "inputs", "crop template", "embedder"):
        table.add_column(name)
    for preset in PRESETS.values():
        inputs = []
        for spec in preset.inputs:
            if isinstance(spec, ImageInput):
                low, high = spec.limits
                words = [
                    f"{spec.size} px",
                    f"{low:g}..{high:g}",
                    *(w for w in ("bgr", "gray", "nhwc") if getattr(spec, w)),
                ]
                words += ["source"] if not spec.shows(TARGET) else []
                inputs.append(f"{spec.name}: {', '.join(words)}")
            elif isinstance(spec, EmbeddingInput):
                inputs.append(f"{spec.name}: embedding" + (f" x {spec.projection}" if spec.projection else ""))
            else:
                inputs.append(f"{spec.name}: {spec.path if isinstance(spec, FileInput) else spec.value}")
        embedder = preset.embedder if preset.embedding else "-"
        table.add_row(preset.name, console.lines(*inputs), preset.template, embedder)
    console.show(table)
