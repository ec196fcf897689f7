"""`trt-ff engines`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.cli import console, options
from trt_facefusion.cli.figures import format_number
from trt_facefusion.engine.store.identity import label_folder
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import StoreError


def command(
    output: Annotated[Path, typer.Option(help="Where engines are stored.")] = Path("engines"),
    as_json: options.AsJson = False,
) -> None:
    """List the stored engines. Exits with 6 where one of them is damaged, having listed them all."""
    if not output.is_dir():
        raise StoreError(f"there is no folder {output}", "build an engine first, or name the store with --output")
    entries = Store(output).list()
    if as_json:
        console.print_json({"schema": 1, "engines": [_describe_entry(path, manifest) for path, manifest in entries]})
        if any(isinstance(manifest, StoreError) for _, manifest in entries):
            raise typer.Exit(StoreError.exit_code)
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("model", "engine", "size", "SSIM drop", "int8 MACs", "made", ""):
        table.add_column(
            name, justify="right" if name in {"size", "SSIM drop", "int8 MACs"} else "left", overflow="fold"
        )
    for path, manifest in entries:
        model, engine = console.plain(path.parent.name), console.plain(path.name)
        if isinstance(manifest, StoreError):
            table.add_row(model, engine, "-", "-", "-", "-", console.styled("damaged", "red"))
            continue
        state = f"in place of {manifest.fallback[0].from_}" if manifest.fallback else ""
        drop, share = manifest.judged.figures.get("ssim_drop"), manifest.macs_share.get("int8", 0.0)
        date = manifest.created.partition("T")[0]
        table.add_row(
            console.plain(label_folder(path, manifest)),
            engine,
            console.size(manifest.engine_bytes),
            format_number(drop, ".2%"),
            f"{share:.0%}",
            date,
            state,
        )
    if entries:
        console.show(table)
    else:
        console.line(f"no engines in {output}")
    damaged = [manifest for _, manifest in entries if isinstance(manifest, StoreError)]
    for error in damaged:
        console.line(f"{error.message} {error.remedy}")
    if damaged:
        raise typer.Exit(StoreError.exit_code)


def _describe_entry(path: Path, manifest: Manifest | StoreError) -> dict[str, Any]:
    if isinstance(manifest, StoreError):
        return {"path": str(path), "error": manifest.as_dict()}
    keys = (
        "model",
        "precision",
        "requested_precision",
        "backend",
        "backend_version",
        "target",
        "engine_bytes",
        "created",
    )
    facts = {key: getattr(manifest, key) for key in keys} | {"model_sha256": manifest.inputs.model_sha256}
    return {"path": str(path), **facts, "accuracy": dict(manifest.accuracy)}
