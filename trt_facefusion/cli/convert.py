"""`trt-ff cache convert`: takes a cache of TensorRT 8 or 10 along, as Q/DQ in the model or in its names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.build.tuning.channels import Channels, pick_scaled_ranges, read_channels
from trt_facefusion.build.tuning.named_table import require_int8
from trt_facefusion.cli import console, options
from trt_facefusion.cli.listing import count_names, print_lines
from trt_facefusion.errors import BadInputError
from trt_facefusion.model.export import OnnxSource, digest_model
from trt_facefusion.model.graph import GraphView, prepare, read_input_specs
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.quantization.calibration import (
    AssignedRanges,
    CalibrationTable,
    assign_ranges,
    load_description,
)
from trt_facefusion.quantization.calibration.cache import load_named
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.types import Precision


def command(
    cache: Annotated[Path, typer.Argument(help="A calibration cache of TensorRT 8 or 10, or ours.")],
    onnx: Annotated[Path, typer.Option(help="The FP32 model that it was made for.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="FILE.onnx: the model with Q/DQ and casts; FILE.cache: the table.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT if it is there.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Take a cache that TensorRT 8 or 10 made along to TensorRT 11, TensorRT-RTX or onnxruntime.

    Those read no caches. The ranges go into the model as Q/DQ instead, where the plan by rules puts INT8.
    """
    if output.suffix not in {".onnx", ".cache"}:
        raise BadInputError(f"the output {output} is neither FILE.onnx nor FILE.cache", "name one of the two")
    if output.exists() and not force:
        raise BadInputError(f"{output} exists", "name another file with --output, or add --force")
    source = OnnxSource(onnx)
    view = _prepare_model(source)
    table = load_named(cache, model_digest=digest_model(view.model))
    calibration = load_description(cache)
    channels = Channels(view) if calibration is None else read_channels(view, calibration, folds=True)
    scaled = {} if calibration is None else pick_scaled_ranges(table, view)
    fitted = assign_ranges(
        CalibrationTable({n: amax for n, amax in table.items() if n not in scaled}, table.header), view
    )
    require_int8(view, fitted.amax, cache)
    plan: Plan | None = None
    if output.suffix == ".onnx":
        plan = plan_by_rules(view, fitted.amax, source.name)
        ranges = channels.place_ranges({**fitted.amax, **scaled})
        typed = lower(channels.view, plan, ranges, affines=channels.affines)
        write_atomic(output, serialise_model(typed))
    else:
        write_atomic(output, CalibrationTable(fitted.amax, table.header).dumps().encode("utf-8"))
    _show_ranges(output, fitted, plan, as_json=as_json)


def _prepare_model(source: OnnxSource) -> GraphView:
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in read_input_specs(source.model):
        rest = tuple(size for size in spec.shape[1:] if isinstance(size, int))
        if len(rest) != len(spec.shape) - 1:
            raise BadInputError(
                f"the input {spec} has sizes that are not fixed, behind the batch",
                "export the model with fixed sizes; only the batch may be dynamic",
            )
        shapes[spec.name] = rest
    return GraphView(prepare(source.model, shapes).model)


def _show_ranges(output: Path, fitted: AssignedRanges, plan: Plan | None, *, as_json: bool) -> None:
    without = [node.name for node in plan.nodes if "no range for" in node.reason] if plan is not None else []
    int8: Optional[int] = len(plan.names(Precision.INT8)) if plan is not None else None
    if as_json:
        console.print_json(
            {
                "schema": 1,
                "output": str(output),
                "tensors": len(fitted.amax),
                "derived": dict(fitted.derived),
                "missing": list(fitted.missing),
                "constants": list(fitted.constants),
                "unknown": list(fitted.unknown),
                "int8_nodes": int8,
                "int8_lost": without,
            }
        )
        return
    print_lines(
        f"{output}: ranges for {len(fitted.amax)} tensors, {len(fitted.derived)} of them copies of others"
        + (f"; {int8} nodes in INT8" if int8 is not None else ""),
        count_names("tensors without a range", fitted.missing),
        count_names("nodes that stay FP16 because of that", without),
        count_names("names that the model does not have", fitted.unknown),
        f"{len(fitted.constants)} names of weights: those are quantised from their own values"
        if fitted.constants
        else "",
    )
