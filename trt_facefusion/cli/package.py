"""`trt-ff package`: engines as what other servers load."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from trt_facefusion.cli import console, options
from trt_facefusion.swap.provenance import METADATA, NONE
from trt_facefusion.triton.configs import ServingSettings
from trt_facefusion.triton.releases import RELEASE
from trt_facefusion.triton.repository import PackagedModel, PackageRequest, package_engines

app = typer.Typer(help="Write engines as what other servers load.", no_args_is_help=True)
_WHERE, _SERVING, _FED = "Where it runs", "How it is served", "How the generator is fed"


@app.command("triton", epilog=console.EXIT_CODES)
def triton(
    engines: Annotated[list[Path], typer.Argument(help="Engines' folders: one, or one for each kind of GPU.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model repository.")] = Path("model_repository"),
    name: Annotated[Optional[str], typer.Option(help="What the model is called (else as its engine).")] = None,
    version: Annotated[Optional[int], typer.Option(min=1, help="Which version it is (else the next one).")] = None,
    no_ensemble: Annotated[bool, typer.Option("--no-ensemble", help="The generator alone, without the steps.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace that version, and the files that start Triton.")
    ] = False,
    gpus: Annotated[
        Optional[str],
        typer.Option(help="GPUs it runs on, like a10g,l4: each must have its engine.", rich_help_panel=_WHERE),
    ] = None,
    triton_version: Annotated[
        str, typer.Option(help="Release of Triton's container, like 26.08.", rich_help_panel=_WHERE)
    ] = RELEASE,
    image: Annotated[
        Optional[str], typer.Option(help="What the image made by the Dockerfile is called.", rich_help_panel=_WHERE)
    ] = None,
    instances: Annotated[
        int, typer.Option(min=1, help="Generators on each GPU, or on the CPU.", rich_help_panel=_SERVING)
    ] = ServingSettings.instances,
    step_instances: Annotated[
        int, typer.Option(min=1, help="Processes for the steps before, and behind.", rich_help_panel=_SERVING)
    ] = ServingSettings.step_instances,
    max_queue_delay_us: Annotated[
        int, typer.Option(min=0, help="Microseconds a face waits for company.", rich_help_panel=_SERVING)
    ] = ServingSettings.queue_delay_us,
    embedder: Annotated[Optional[Path], typer.Option(help="ONNX of the ArcFace network.", rich_help_panel=_FED)] = None,
    converter: Annotated[
        Optional[Path], typer.Option(help="ONNX that converts its vectors.", rich_help_panel=_FED)
    ] = None,
    detector: Annotated[
        Optional[Path], typer.Option(help="SCRFD or RetinaFace ONNX; else YuNet.", rich_help_panel=_FED)
    ] = None,
    sample: Annotated[
        Optional[Path],
        typer.Option(
            help="A photo that warms the generator up; its crop is kept (else a mean face).", rich_help_panel=_FED
        ),
    ] = None,
    no_marks: Annotated[
        bool, typer.Option("--no-marks", help="Results do not say that they were generated: you answer for it.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a model repository for NVIDIA Triton: the generator, the steps of a swap, an ensemble over them."""
    named = {"embedder": embedder, "converter": converter, "detector": detector}
    request = PackageRequest(
        tuple(engines),
        output,
        name,
        tuple(gpu.strip() for gpu in gpus.split(",")) if gpus else (),
        ServingSettings(instances, step_instances, max_queue_delay_us),
        version,
        not no_ensemble,
        force,
        triton_version,
        image,
        {kind: path for kind, path in named.items() if path is not None},
        sample,
        NONE if no_marks else METADATA,
    )
    packaged = package_engines(request, console.note)
    if as_json:
        console.print_json(_describe(packaged))
        return
    _show(packaged)


def _describe(packaged: PackagedModel) -> dict[str, Any]:
    return {
        "schema": 1,
        "repository": str(packaged.repository),
        "models": list(packaged.models),
        "version": packaged.version,
        "command": list(packaged.arguments),
        "kept": list(packaged.kept),
    }


def _show(packaged: PackagedModel) -> None:
    root = packaged.repository
    console.line(f"{root}: version {packaged.version} of {', '.join(packaged.models)}")
    for name in packaged.kept:
        console.note(f"{name} is kept as it was; it must load {packaged.models[-1]} (or write it anew with --force)")
    console.line(f"next: {shlex.join(packaged.arguments)}")
    compose = shlex.quote(str(root / "docker-compose.yaml"))
    console.line(f"or, in a container (see {root / 'Dockerfile'}): docker compose -f {compose} up")
