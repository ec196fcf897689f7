"""A plan and its typed graph -> an engine, and what its kernels prove."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, ShapeRange, WeakTyping
from trt_facefusion.engine.backends.capabilities import Typing
from trt_facefusion.engine.backends.kernels import Int8Coverage, find_int8_coverage
from trt_facefusion.errors import BuildError
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.quantization.calibration import Batches, compare_tables
from trt_facefusion.quantization.calibration.cache import cache_path
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.lowering.equalise import equalise_model, find_added_ranges
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision

_SHOWN = 5


@dataclass(frozen=True)
class LoweredPlan:
    """A plan, and the strongly typed ONNX that it was lowered to with ``ranges`` and ``corrections``.

    Where no node is INT8 there are neither: ``ranges`` is None.
    """

    plan: Plan
    typed: onnx.ModelProto
    ranges: Ranges | None = None
    corrections: Corrections = field(default_factory=dict)


@dataclass(frozen=True)
class CompiledEngine:
    """An engine, and its planned INT8 nodes held against its kernels."""

    engine: BuiltEngine
    coverage: Int8Coverage

    @property
    def missing(self) -> tuple[str, ...]:
        """INT8 nodes that got no INT8 kernel, though others got one: accuracy was spent for nothing."""
        return tuple(self.coverage.missing) if self.engine.kernels_known and self.coverage.real > 0 else ()


def compile_plan(inputs: BuildInputs, lowered: LoweredPlan) -> CompiledEngine:
    """Have the backend build what was lowered, and hold the plan against the kernels in its log.

    Raises:
        BuildError: the backend refused the network.
    """
    backend = inputs.job.selection.backend
    engine = backend.build(request_build(inputs, lowered), inputs.reporter.progress)
    planned = {node.name: node.op for node in lowered.plan.nodes if node.precision is Precision.INT8}
    return CompiledEngine(engine, find_int8_coverage(planned, engine.kernels, backend.capabilities.math_types))


def request_build(inputs: BuildInputs, lowered: LoweredPlan) -> BuildRequest:
    """What the backend is asked for: the typed graph, and the plan itself for one that types weakly."""
    settings, selection = inputs.settings, inputs.job.selection
    weak = _type_weakly(inputs, lowered) if selection.backend.capabilities.typing is Typing.WEAK else None
    return BuildRequest(
        serialise_model(lowered.typed),
        list_shapes(inputs),
        selection.target,
        workspace_bytes=settings.workspace_bytes,
        weak=weak,
        options=replace(settings.options, timing_cache=settings.cache),
    )


def list_shapes(inputs: BuildInputs) -> Mapping[str, ShapeRange]:
    """Smallest, usual and largest shape of every input."""
    batch = inputs.settings.batch
    shapes: dict[str, ShapeRange] = {}
    for spec in inputs.network.prepared.inputs:
        smallest, usual, largest = (
            tuple(size if isinstance(size, int) else samples for size in spec.shape)
            for samples in (batch.min, batch.opt, batch.max)
        )
        shapes[spec.name] = (smallest, usual, largest)
    return shapes


def _type_weakly(inputs: BuildInputs, lowered: LoweredPlan) -> WeakTyping:
    view, settings = inputs.view, inputs.settings
    model, ranges, int8 = view.model, lowered.ranges, lowered.plan.names(Precision.INT8)
    precisions = {node.name: node.precision for node in lowered.plan.nodes}
    table = None if ranges is None else ranges.table
    if ranges is not None and (ranges.affines or lowered.corrections):
        model = equalise_model(view, int8, ranges.affines, lowered.corrections)
        added = find_added_ranges(view, int8, ranges.affines, ranges.table)
        table = CalibrationTable({**ranges.table, **added}, ranges.table.header)
        precisions |= {node.name: Precision.FP16 for node in model.graph.node if node.name not in view.nodes}
    return WeakTyping(
        model=serialise_model(model),
        precisions=precisions,
        table=table,
        batches=_calibration_batches(inputs) if settings.recalibrate else None,
        algorithm="minmax" if settings.rule == "max" else "entropy",
        keep=_own_table(inputs) if settings.recalibrate else None,
    )


def _our_table(inputs: BuildInputs) -> Path:
    settings = inputs.settings
    return settings.table or cache_path(settings.cache, settings.source.name, inputs.view.digest)


def _own_table(inputs: BuildInputs) -> Path:
    """Where the table that TensorRT makes itself is kept: beside ours."""
    ours = _our_table(inputs)
    return ours.with_name(f"{ours.stem}-tensorrt.cache")


def _calibration_batches(inputs: BuildInputs) -> Batches:
    feeder = inputs.feed_calibration()
    takes = tuple(replace(spec, dtype="float32") if spec.dtype == "float64" else spec for spec in feeder.takes)
    return Batches(replace(feeder, takes=takes), len(inputs.faces.calibration), inputs.network.batch)


def describe_own_table(inputs: BuildInputs, ranges: Ranges, amax: Mapping[str, float]) -> Mapping[str, object]:
    """Say where ``amax``, the table that TensorRT made itself, differs most from ours; all of it for the manifest."""
    ours, own = _our_table(inputs), _own_table(inputs)
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


def report_kernels(inputs: BuildInputs, compiled: CompiledEngine) -> None:
    """Warn of planned INT8 nodes without an INT8 kernel, and of what else a person should know of the engine.

    Raises:
        BuildError: a kernel is missing, and the build is strict.
    """
    engine, coverage = compiled.engine, compiled.coverage
    for note in (*engine.notes, *_list_changed_types(inputs)):
        inputs.reporter.warn(note)
    if not coverage.missing:
        return
    names = ", ".join(coverage.missing)
    if not engine.kernels_known:
        message = "the backend's log could not be read, so no INT8 kernel is proven"
    else:
        message = f"{len(coverage.missing)} of {coverage.planned} planned INT8 nodes are no INT8 kernel: {names}"
    if inputs.settings.strict:
        raise BuildError(message, "give these nodes fp16 in the plan (--plan), or leave --strict out")
    inputs.reporter.warn(message, Precision.INT8)


def _list_changed_types(inputs: BuildInputs) -> list[str]:
    """What the engine takes or gives in another type than the file: TensorRT has no float64."""
    prepared, backend = inputs.network.prepared, inputs.job.selection.backend
    doubles = [spec.name for spec in (*prepared.inputs, *prepared.outputs) if spec.dtype == "float64"]
    if not doubles or backend.capabilities.float64:
        return []
    return [f"{backend.name} has no float64: {', '.join(doubles)} {'is' if len(doubles) == 1 else 'are'} float32 here"]
