"""What a backend that types weakly is given beside the typed graph: precisions, a table, faces to calibrate on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.lowered_plan import LoweredPlan
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.engine.backends.base import WeakTyping
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.quantization.calibration import Batches, compare_tables
from trt_facefusion.quantization.calibration.cache import cache_path
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.lowering.equalise import equalise_model, find_added_ranges
from trt_facefusion.types import Precision

_SHOWN = 5


def type_weakly(inputs: BuildInputs, lowered: LoweredPlan) -> WeakTyping:
    """The plan for a builder of TensorRT 10: the FP32 graph with the corrections, a precision a node, ranges."""
    ranges, settings, int8 = lowered.ranges, inputs.settings, lowered.plan.names(Precision.INT8)
    view = inputs.view if ranges is None else ranges.view
    model = view.model
    precisions = {node.name: node.precision for node in lowered.plan.nodes}
    table = None if ranges is None else ranges.table
    if ranges is not None and (ranges.affines or lowered.corrections):
        model = equalise_model(view, int8, ranges.affines, lowered.corrections)
        added = find_added_ranges(view, int8, ranges.affines, ranges.amax)
        table = CalibrationTable({**ranges.amax, **added}, ranges.table.header)
        precisions |= {node.name: Precision.FP16 for node in model.graph.node if node.name not in view.nodes}
    return WeakTyping(
        model=serialise_model(model),
        precisions=precisions,
        table=table,
        batches=_make_calibration_batches(inputs) if settings.recalibrate else None,
        algorithm="minmax" if settings.rule == "max" else "entropy",
        keep=_locate_own_table(inputs) if settings.recalibrate else None,
    )


def _locate_our_table(inputs: BuildInputs) -> Path:
    settings = inputs.settings
    return settings.table or cache_path(settings.cache, settings.source.name, inputs.view.digest)


def _locate_own_table(inputs: BuildInputs) -> Path:
    """Where the table that TensorRT makes itself is kept: beside ours."""
    ours = _locate_our_table(inputs)
    return ours.with_name(f"{ours.stem}-tensorrt.cache")


def _make_calibration_batches(inputs: BuildInputs) -> Batches:
    feeder = inputs.feed_calibration()
    takes = tuple(replace(spec, dtype="float32") if spec.dtype == "float64" else spec for spec in feeder.takes)
    return Batches(replace(feeder, takes=takes), len(inputs.faces.calibration), inputs.network.batch)


def describe_own_table(inputs: BuildInputs, ranges: Ranges, amax: Mapping[str, float]) -> Mapping[str, object]:
    """Say where ``amax``, the table that TensorRT made itself, differs most from ours; all of it for the manifest."""
    ours, own = _locate_our_table(inputs), _locate_own_table(inputs)
    comparison = compare_tables(ranges.table, amax)
    largest = ", ".join(f"{change.name} x{change.ratio:.3g}" for change in comparison.changes[:_SHOWN])
    inputs.reporter.note(
        f"TensorRT calibrated {len(amax)} tensors itself; it differs most from our table in {largest}. "
        f"All of them: {shlex.join(('trt-ff', 'cache', 'diff', str(ours), str(own)))}"
    )
    return {
        "table": str(own),
        "amax": {change.name: [change.first, change.second] for change in comparison.changes},
        "only_ours": list(comparison.only_first),
        "only_tensorrt": list(comparison.only_second),
    }
