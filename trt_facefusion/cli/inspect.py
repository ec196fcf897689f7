"""`trt-ff inspect`: one stored engine, and what became of every layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from trt_facefusion.cli import console, options
from trt_facefusion.cli.figures import format_figure, format_number, list_judges
from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.pins import format_cuda_version
from trt_facefusion.engine.backends.registry import find_backend, get_math_types
from trt_facefusion.engine.store.manifest import CalibrationRecord, Manifest, StoredAccuracy
from trt_facefusion.engine.store.store import Store
from trt_facefusion.engine.timing.summary import PredictedTime
from trt_facefusion.evaluation.accuracy.registry import list_shown_figures
from trt_facefusion.quantization.precision import read_rows

_OWN_WORDS = {"ssim_drop", "ssim_drop_worst", "psnr_db", "identity_cosine"}
"""Figures that `inspect` tells in words of its own, or not at all."""


def command(
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
        "runs on": _describe_machine(m),
        "shapes": "; ".join(f"{name}: {_format_shapes(shapes)}" for name, shapes in m.shapes.items()),
        "accuracy": _format_accuracy(m.judged),
        "verified with": m.verified_with,
        "gate": "passed" if m.gate.passed else "; ".join(m.gate.reasons),
        "MACs": ", ".join(f"{name} {share:.1%}" for name, share in m.macs_share.items()),
        "int8 kernels": f"{m.int8_kernels.real} of {m.int8_kernels.planned} planned"
        + (f"; missing: {', '.join(m.int8_kernels.missing)}" if m.int8_kernels.missing else ""),
        "predicted time": _format_predicted(m.predicted),
        "calibration": _format_calibration(m.calibration),
        "made": f"{m.created} by trt-facefusion {m.tool_version} in {m.seconds:.1f} s",
    }
    for name, text in rows.items():
        table.add_row(name, console.plain(text))
    for step in m.fallback:
        table.add_row("fell back", console.plain(f"{step.from_} -> {step.to}: {step.reason}"))
    for warning in m.warnings:
        table.add_row("warning", console.plain(warning))
    console.show(table)


def _format_predicted(predicted: PredictedTime | None) -> str:
    if predicted is None:
        return "-"
    how = "with factors that were fitted" if predicted.fitted else "at the GPU's published rates"
    return f"{predicted.total_ms:.3f} ms on {predicted.gpu}, batch {predicted.batch}, {how}; not measured"


def _format_accuracy(judged: StoredAccuracy) -> str:
    of = judged.figures.get
    plain_figures = [
        figure
        for figure in list_shown_figures((), judged.figures)
        if figure.key in judged.figures and figure.key not in _OWN_WORDS
    ]
    parts = [
        f"SSIM drop {format_number(of('ssim_drop'), '.3%')} (worst face {format_number(of('ssim_drop_worst'), '.3%')})",
        f"PSNR {format_number(of('psnr_db'), '.1f')} dB",
        f"identity {format_number(of('identity_cosine'), '.4f')}",
        *(f"{figure.label} {format_figure(figure, of(figure.key))}" for figure in plain_figures),
        f"on {format_number(judged.faces, 'd')} faces",
        *list_judges(judged),
    ]
    return ", ".join(parts)


def _format_calibration(record: CalibrationRecord | None) -> str:
    if record is None:
        return "none needed"
    measured = [(rule, drop) for rule, drop in record.ssim_drop.items() if drop is not None]
    drops = ", ".join(f"{rule} {drop:.3%}" for rule, drop in sorted(measured, key=lambda rule_drop: rule_drop[1]))
    text = f"rule {record.rule}" + (", channels equalised" if record.equalised else "")
    text += f", {record.folded} tensors at no run-time cost" if record.folded else ""
    text += f" and {record.shifted} tensors shifted" if record.shifted else ""
    text += f", layers corrected by {' + '.join(record.corrections)}" if record.corrections else ""
    return text + (f"; SSIM drop on calibration faces: {drops}" if drops else "")


def _describe_machine(m: Manifest) -> str:
    """What the machine that loads the engine must have."""
    backend = find_backend(m.backend)
    pins = m.pins
    if backend is None or not (backend.capabilities.needs_gpu or pins.instructions or pins.chip):
        return "any CPU"
    product = backend.library.product
    if pins.chip is not None:
        compiler = f", compiler {pins.sdk}" if pins.sdk else ""
        by = f"{product} {m.backend_version}{compiler}"
        return f"phones with the chip {pins.chip} (HTP v{pins.htp_arch}); compiled by {by}"
    if not backend.capabilities.needs_gpu:
        return f"processors with {pins.instructions}, {pins.platform or 'any platform'}, {product} {m.backend_version}"
    gpu = "a GPU that was not asked for its kind"
    if pins.hardware_compatibility == "ampere_plus":
        gpu = "Ampere and later GPUs"
    elif pins.compute_capability is not None:
        gpu = "GPUs of compute capability {}.{}".format(*pins.compute_capability)
    later = " and later minor versions" if pins.version_compatible else ""
    built_on = f"; built on {pins.device}" if pins.device else ""
    built_on += f" under a driver for CUDA {format_cuda_version(pins.driver)}" if pins.driver else ""
    return f"{gpu}, {pins.platform or 'any platform'}, {product} {m.backend_version}{later}{built_on}"


def _format_shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    texts = ["x".join(map(str, shape)) for shape in shapes]
    return texts[0] if len(set(texts)) == 1 else " .. ".join(texts)


def _show_layers(rows: list[dict[str, Any]], m: Manifest) -> None:
    """The layers that multiply: what was planned, why, and the data types of the kernel that came out."""
    total = sum(row.get("macs", 0) for row in rows) or 1
    layers = [row for row in rows if row.get("macs")]
    planned = {row["name"]: row["op"] for row in layers}
    real = {detail.node: detail for detail in find_int8_coverage(planned, m.kernels, get_math_types(m.backend)).details}
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
        table.add_row(kernel.type, kernel.dtypes, console.plain(_format_nodes(kernel)), style=style)
    console.show(table)


def _format_nodes(kernel: Kernel) -> str:
    shown = ", ".join(kernel.nodes[:4])
    return shown + (f" and {len(kernel.nodes) - 4} more" if len(kernel.nodes) > 4 else "")
