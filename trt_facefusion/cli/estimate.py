"""`trt-ff estimate`: how long an engine will take on a GPU, before there is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table

from trt_facefusion.cli import console, options
from trt_facefusion.engine.timing.roofline import BOUNDS, share
from trt_facefusion.engine.timing.work import KINDS
from trt_facefusion.evaluation.profiling.estimate import COSTLIEST, EstimatedEngine, TimeEstimate, estimate

_PRECISIONS = ("fp32", "fp16", "int8")
_SHOWN_NODES = 3


def command(
    engine: Annotated[Path, typer.Argument(help="An engine's folder, a file in it, or a model's folder.")],
    gpu: Annotated[
        Optional[str], typer.Option(help="A GPU like a10g, t4 or rtx3090 (else the one the engine was built for).")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Kernels to show.")] = COSTLIEST,
    cache: Annotated[Path, typer.Option(help="Where `trt-ff profile --fit` keeps its factors.")] = Path("calib_cache"),
    as_json: options.AsJson = False,
) -> None:
    """Predict how long an engine takes on a GPU, from its kernels, beside its siblings of other precisions.

    A model, not a measurement: each kernel takes its launch and the longer of moving its bytes and multiplying, at what
    the GPU's maker publishes, or at what `trt-ff profile --fit` found that the GPU reaches.
    """
    estimated = estimate(engine, gpu, cache)
    if as_json:
        console.print_json(estimated.as_dict())
        return
    show(estimated, top)


def show(estimated: TimeEstimate, top: int) -> None:
    """The tables: all engines side by side, and the costliest kernels of the one that was named."""
    engines = sorted(estimated.engines, key=lambda e: _PRECISIONS.index(e.manifest.precision))
    title = (
        f"PREDICTED, not measured: {engines[0].manifest.model} on {estimated.gpu.title}, batch {_name_batch(engines)}"
    )
    table = Table(title=console.plain(title), title_justify="left", header_style="bold")
    table.add_column("")
    for engine in engines:
        table.add_column(engine.manifest.precision, justify="right")
    columns = [_describe(engine) for engine in engines]
    for name in dict.fromkeys(row for column in columns for row in column):
        table.add_row(name, *(column.get(name, "-") for column in columns), end_section=name in _SECTION_ENDS)
    console.show(table)
    console.line(_describe_factors(estimated))
    for note in estimated.notes:
        console.line(f"note: {note}")
    _show_costliest(estimated.engines[0], top)
    for engine in engines:
        _show_int8_writing_fp32(engine)
    if estimated.verdict is not None:
        console.line(console.styled(estimated.verdict, "yellow"))


_SECTION_ENDS = {"moved", f"bound by {BOUNDS[-1]}"}


def _name_batch(engines: list[EstimatedEngine]) -> str:
    return ", ".join(str(batch) for batch in dict.fromkeys(engine.prediction.batch for engine in engines))


def _describe(engine: EstimatedEngine) -> dict[str, str]:
    """What the table says of one engine: row -> text."""
    predicted = engine.prediction
    by_bound, by_kind = predicted.sum_by_bound(), predicted.sum_by_kind()
    return {
        "predicted time": f"{predicted.total_ms:.3f} ms",
        "kernels": str(predicted.launches),
        "moved": console.size(predicted.moved_bytes),
        **{f"bound by {bound}": _format_part(by_bound, bound) for bound in BOUNDS},
        **{kind: _format_part(by_kind, kind) for kind in KINDS if by_kind.get(kind)},
    }


def _format_part(times: Mapping[str, float], name: str) -> str:
    return f"{times[name]:.3f} ms {share(times)[name]:4.0%}"


def _describe_factors(estimated: TimeEstimate) -> str:
    gpu, fitted = estimated.gpu, estimated.factors
    rates = ", ".join(f"{rate} {amount:g}" for rate, amount in gpu.tera_ops.items())
    published = f"{gpu.bandwidth_gb_s:g} GB/s, {gpu.launch_us:g} us a launch, tera operations per second: {rates}"
    if fitted is None:
        return f"Reckoned with what is published ({published}), all of it reached: real engines usually take longer."
    shares = ", ".join(f"{name} {factor:.2f}" for name, factor in fitted.factors.by_name.items())
    return (
        f"Reckoned with what is published ({published}), and the share of it that {fitted.device} reached on "
        f"{fitted.created[:10]} with {fitted.library}: {shares}."
    )


def _show_costliest(engine: EstimatedEngine, top: int) -> None:
    shown = engine.prediction.list_costliest(top)
    if not shown:
        return
    part = sum(kernel.time_ms for kernel in shown) / (engine.prediction.total_ms or 1.0)
    title = (
        f"{engine.manifest.precision}: the costliest {len(shown)} of {engine.prediction.launches} kernels (predicted), "
        f"{part:.0%} of the time"
    )
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("nodes", overflow="fold", min_width=12)
    for name in ("ms", "moved"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("bound by", "kind", "data types"):
        table.add_column(name, overflow="fold")
    for kernel in shown:
        row = (f"{kernel.time_ms:.4f}", console.size(kernel.work.moved_bytes))
        nodes = _name_some(engine.name_nodes(kernel)) or kernel.kernel.name
        table.add_row(console.plain(nodes), *row, kernel.bound, kernel.work.kind, kernel.kernel.dtypes)
    console.show(table)


def _show_int8_writing_fp32(engine: EstimatedEngine) -> None:
    writing = engine.list_int8_writing_fp32()
    if writing:
        precision, count = engine.manifest.precision, engine.summary.int8_kernels
        names = "; ".join(_name_some(nodes) for nodes in writing)
        console.line(f"{precision}: {len(writing)} of {count} INT8 kernels write FP32: {names}")


def _name_some(nodes: tuple[str, ...]) -> str:
    more = len(nodes) - _SHOWN_NODES
    return ", ".join(nodes[:_SHOWN_NODES]) + (f" and {more} more" if more > 0 else "")
