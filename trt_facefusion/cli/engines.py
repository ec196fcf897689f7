"""`trt-ff engines` and `trt-ff inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.cli import console, options
from trt_facefusion.cli.figures import written
from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.engine.backends.kernels import int8_coverage
from trt_facefusion.engine.backends.pins import format_cuda_version
from trt_facefusion.engine.backends.registry import find_backend, get_math_types
from trt_facefusion.engine.store.identity import label_folder
from trt_facefusion.engine.store.manifest import CalibrationRecord, Manifest, StoredAccuracy
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import StoreError
from trt_facefusion.evaluation.accuracy.registry import shown_figures
from trt_facefusion.quantization.precision import read_rows

_OWN_WORDS = {"ssim_drop", "ssim_drop_worst", "psnr_db", "identity_cosine", "perceptual"}
"""Figures that `inspect` tells in words of its own, or not at all."""


def list_command(
    output: Annotated[Path, typer.Option(help="Where engines are stored.")] = Path("engines"),
    as_json: options.AsJson = False,
) -> None:
    """List the stored engines. Exits with 6 where one of them is damaged, having listed them all."""
    if not output.is_dir():
        raise StoreError(f"there is no folder {output}", "build an engine first, or name the store with --output")
    entries = Store(output).list()
    if as_json:
        console.print_json({"schema": 1, "engines": [_entry(path, manifest) for path, manifest in entries]})
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
            _figure(drop, ".2%"),
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


def _entry(path: Path, manifest: Manifest | StoreError) -> dict[str, Any]:
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


def inspect_command(
    engine: Annotated[Path, typer.Argument(help="An engine's folder, or the engine file in it.")],
    kernels: Annotated[bool, typer.Option("--kernels", help="Show every kernel of the engine, too.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show one engine: what went in, how right it is, and what became of every layer. Checks all files' digests."""
    folder = engine.parent if engine.is_file() else engine
    manifest = Store(folder.parent.parent).load(folder)
    if as_json:
        console.print_json(json.loads(manifest.to_json()))
        return
    _show_summary(folder, manifest)
    _show_layers(read_rows(folder / "plan.yaml"), manifest)
    if kernels:
        _show_kernels(manifest)


def _show_summary(folder: Path, m: Manifest) -> None:
    table = Table(show_header=False, title=console.plain(str(folder)), title_justify="left", box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "model": f"{m.model}, sha256 {m.inputs.model_sha256[:16]}",
        "engine": f"{m.precision} for {m.target} by {m.backend} {m.backend_version}, {console.size(m.engine_bytes)}",
        "runs on": _machine(m),
        "shapes": "; ".join(f"{name}: {_range(shapes)}" for name, shapes in m.shapes.items()),
        "accuracy": _accuracy(m.judged),
        "verified with": m.verified_with,
        "gate": "passed" if m.gate.passed else "; ".join(m.gate.reasons),
        "MACs": ", ".join(f"{name} {share:.1%}" for name, share in m.macs_share.items()),
        "int8 kernels": f"{m.int8_kernels.real} of {m.int8_kernels.planned} planned"
        + (f"; missing: {', '.join(m.int8_kernels.missing)}" if m.int8_kernels.missing else ""),
        "calibration": _calibration(m.calibration),
        "made": f"{m.created} by trt-facefusion {m.tool_version} in {m.seconds:.1f} s",
    }
    for name, text in rows.items():
        table.add_row(name, console.plain(text))
    for step in m.fallback:
        table.add_row("fell back", console.plain(f"{step.from_} -> {step.to}: {step.reason}"))
    for warning in m.warnings:
        table.add_row("warning", console.plain(warning))
    console.show(table)


def _accuracy(judged: StoredAccuracy) -> str:
    of = judged.figures.get
    plain_figures = [
        figure for figure in shown_figures() if figure.key in judged.figures and figure.key not in _OWN_WORDS
    ]
    parts = [
        f"SSIM drop {_figure(of('ssim_drop'), '.3%')} (worst face {_figure(of('ssim_drop_worst'), '.3%')})",
        f"PSNR {_figure(of('psnr_db'), '.1f')} dB",
        f"identity {_figure(of('identity_cosine'), '.4f')}",
        *(f"{figure.label} {written(figure, of(figure.key))}" for figure in plain_figures),
        f"on {_figure(judged.faces, 'd')} faces",
    ]
    return ", ".join(parts)


def _figure(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def _calibration(record: CalibrationRecord | None) -> str:
    if record is None:
        return "none needed"
    measured = [(rule, drop) for rule, drop in record.ssim_drop.items() if drop is not None]
    drops = ", ".join(f"{rule} {drop:.3%}" for rule, drop in sorted(measured, key=lambda rule_drop: rule_drop[1]))
    text = f"rule {record.rule}" + (", channels equalised" if record.equalised else "")
    text += f" and {record.shifted} tensors shifted" if record.shifted else ""
    text += f", layers corrected by {' + '.join(record.corrections)}" if record.corrections else ""
    return text + (f"; SSIM drop on calibration faces: {drops}" if drops else "")


def _machine(m: Manifest) -> str:
    """What the machine that loads the engine must have."""
    backend = find_backend(m.backend)
    if backend is None or not backend.capabilities.needs_gpu:
        return "any CPU"
    pins, product = m.pins, backend.library.product
    gpu = "a GPU that was not asked for its kind"
    if pins.hardware_compatibility == "ampere_plus":
        gpu = "Ampere and later GPUs"
    elif pins.compute_capability is not None:
        gpu = "GPUs of compute capability {}.{}".format(*pins.compute_capability)
    later = " and later minor versions" if pins.version_compatible else ""
    built_on = f"; built on {pins.device}" if pins.device else ""
    built_on += f" under a driver for CUDA {format_cuda_version(pins.driver)}" if pins.driver else ""
    return f"{gpu}, {pins.platform or 'any platform'}, {product} {m.backend_version}{later}{built_on}"


def _range(shapes: tuple[tuple[int, ...], ...]) -> str:
    texts = ["x".join(map(str, shape)) for shape in shapes]
    return texts[0] if len(set(texts)) == 1 else " .. ".join(texts)


def _show_layers(rows: list[dict[str, Any]], m: Manifest) -> None:
    """The layers that multiply: what was planned, why, and the data types of the kernel that came out."""
    total = sum(row.get("macs", 0) for row in rows) or 1
    layers = [row for row in rows if row.get("macs")]
    planned = {row["name"]: row["op"] for row in layers}
    real = {detail.node: detail for detail in int8_coverage(planned, m.kernels, get_math_types(m.backend)).details}
    table = Table(title=f"{len(layers)} layers with MACs", title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("MACs", justify="right")
    for name in ("plan", "kernel", "reason"):
        table.add_column(name, overflow="fold")
    for row in layers:
        real_kernel = real[row["name"]]
        lost = row["precision"] == "int8" and not real_kernel.is_int8 and bool(m.kernels)
        style = "red" if lost else "green" if real_kernel.is_int8 else ""
        share = f"{row['macs'] / total:.1%}"
        table.add_row(
            console.plain(row["name"]), share, row["precision"], real_kernel.dtypes or "-", row["reason"], style=style
        )
    console.show(table)


def _show_kernels(m: Manifest) -> None:
    table = Table(title=f"{len(m.kernels)} kernels", title_justify="left", header_style="bold")
    for name in ("type", "data types", "made from"):
        table.add_column(name, overflow="fold")
    math_types = get_math_types(m.backend)
    for kernel in m.kernels:
        style = "green" if kernel.is_int8_math(math_types) else ""
        table.add_row(kernel.type, kernel.dtypes, console.plain(_nodes(kernel)), style=style)
    console.show(table)


def _nodes(kernel: Kernel) -> str:
    shown = ", ".join(kernel.nodes[:4])
    return shown + (f" and {len(kernel.nodes) - 4} more" if len(kernel.nodes) > 4 else "")
