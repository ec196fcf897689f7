"""`trt-ff presets`."""

from __future__ import annotations

from rich.table import Table

from trt_facefusion.cli import console
from trt_facefusion.presets import PRESETS, EmbeddingInput, FileInput, ImageInput


def command() -> None:
    """List the known generators and what each expects."""
    table = Table(header_style="bold")
    for name in ("preset", "inputs", "crop template", "embedder"):
        table.add_column(name)
    for preset in PRESETS.values():
        inputs = []
        for spec in preset.inputs:
            if isinstance(spec, ImageInput):
                low, high = spec.limits
                inputs.append(f"{spec.name}: {spec.size} px, {low:g}..{high:g}")
            elif isinstance(spec, EmbeddingInput):
                inputs.append(f"{spec.name}: embedding" + (f" x {spec.projection}" if spec.projection else ""))
            elif isinstance(spec, FileInput):
                inputs.append(f"{spec.name}: {spec.path}")
        embedder = preset.embedder if preset.embedding else "-"
        table.add_row(preset.name, console.lines(*inputs), preset.template, embedder)
    console.show(table)
