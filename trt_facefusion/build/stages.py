"""One precision of a build: plan, lower, verify, gate, repair, compile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from trt_facefusion.build.gallery import Gallery
from trt_facefusion.build.inputs import Context
from trt_facefusion.build.tuning.corrections import Correcting
from trt_facefusion.build.tuning.integer_storage import Storing
from trt_facefusion.build.tuning.plan_search import PlanSearch, candidates, opened
from trt_facefusion.build.tuning.ranges import Ranges, require_writable
from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, ShapeRange, WeakTyping
from trt_facefusion.engine.backends.kernels import Coverage, int8_coverage
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BuildError, GateError
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.evaluation.accuracy.gate import MAX_SSIM_DROP, Limits, Verdict
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import open_metrics
from trt_facefusion.inference.original import computes_in_half
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.quantization.calibration import Batches, compare_tables
from trt_facefusion.quantization.calibration.cache import cache_path, load_named
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.equalise import equalise_model, find_added_ranges
from trt_facefusion.quantization.precision import Plan, plan_by_rules, read_plan
from trt_facefusion.types import Precision

_SHOWN = 5
_MORE_PRECISION = "add calibration faces like those that it will see, or give nodes more precision in the plan (--plan)"
_WIDEN = f"{_MORE_PRECISION}, or widen the limit (--max-ssim-drop)"


@dataclass(frozen=True)
class Repair:
    """One round of repair: the nodes that were raised, and the mean SSIM drop before."""

    nodes: tuple[str, ...]
    ssim_drop_before: float


@dataclass(frozen=True)
class Made:
    """An engine that passed, with everything the manifest says of it."""

    plan: Plan
    typed: onnx.ModelProto
    accuracy: Accuracy
    verdict: Verdict
    engine: BuiltEngine
    coverage: Coverage
    repairs: tuple[Repair, ...]
    recalibration: Mapping[str, object] | None = None
    """TensorRT's own table against ours; None where it made none."""
    search: Mapping[str, Any] | None = None
    """What the plan search measured, for `search.json`; None where none was made."""


class Attempts:
    """Makes engines of one model; what they share (ranges, the plan search) is computed once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.gallery = Gallery()
        self._repairing: PlanSearch | None = None

    @cached_property
    def ranges(self) -> Ranges:
        """The calibration, made when first asked for."""
        return Ranges(self.context)

    @cached_property
    def correcting(self) -> Correcting:
        """Corrections of layers, computed when a plan first needs them."""
        return Correcting(self.context, self.ranges.table, self.ranges.affines)

    @cached_property
    def storing(self) -> Storing:
        """Integer operators for a CPU."""
        return Storing(self.context, self.ranges, self.correcting)

    def make(self, precision: Precision) -> Made:
        """An engine of ``precision`` that passed its gate.

        Raises:
            GateError: the pictures are not right, also after the repairs that are allowed.
            BuildError: the engine maker refused it, or ``strict`` is on and a planned INT8 kernel is missing.
        """
        plan = self.plan(precision)
        plan, typed, accuracy, verdict, repairs = self.until_right(plan, precision)
        engine, coverage = self._compiled(plan, typed)
        if self._searches and engine.kernels_known and _wasted(coverage, engine):
            wasted = dict.fromkeys(coverage.missing, f"{engine.backend} built no INT8 kernel for it")
            self.context.note(f"raising {', '.join(wasted)}: planned INT8 bought no INT8 kernel")
            plan, typed, accuracy, verdict, again = self.until_right(plan.raised(wasted), precision)
            repairs += again
            engine, coverage = self._compiled(plan, typed)
        self._complain(coverage, engine)
        tables = self._compare_tables(engine)
        searched = self.searched if precision is Precision.INT8 else None
        return Made(plan, typed, accuracy, verdict, engine, coverage, repairs, tables, searched)

    def _compiled(self, plan: Plan, typed: onnx.ModelProto) -> tuple[BuiltEngine, Coverage]:
        engine = self.context.choice.backend.build(self.request(plan, typed), self.context.progress)
        planned = {n.name: n.op for n in plan.nodes if n.precision is Precision.INT8}
        return engine, int8_coverage(planned, engine.kernels)

    def request(self, plan: Plan, typed: onnx.ModelProto) -> BuildRequest:
        """What the engine maker is asked for: the typed graph, and the plan itself for one that types weakly."""
        context = self.context
        weak = self._weak(plan) if context.choice.backend.name == "tensorrt" else None
        return BuildRequest(
            serialise_model(typed),
            self.shapes(),
            context.choice.target,
            workspace_bytes=context.settings.workspace_bytes,
            weak=weak,
            options=replace(context.settings.options, timing_cache=context.settings.cache),
        )

    def _weak(self, plan: Plan) -> WeakTyping:
        context = self.context
        model = context.view.model
        precisions = {node.name: node.precision for node in plan.nodes}
        int8 = plan.names(Precision.INT8)
        table = self.ranges.table if int8 else None
        if table is not None and (self.ranges.affines or self.correcting.of(plan)):
            model = equalise_model(context.view, int8, self.ranges.affines, self.correcting.of(plan))
            added = find_added_ranges(context.view, int8, self.ranges.affines, table)
            table = CalibrationTable({**table, **added}, table.header)
            precisions |= {
                node.name: Precision.FP16 for node in model.graph.node if node.name not in context.view.nodes
            }
        return WeakTyping(
            model=serialise_model(model),
            precisions=precisions,
            table=table,
            batches=self._batches() if context.settings.recalibrate else None,
            algorithm="minmax" if context.settings.rule == "max" else "entropy",
            keep=self._own_table if context.settings.recalibrate else None,
        )

    @property
    def _own_table(self) -> Path:
        """Where the table that TensorRT makes itself is kept: beside ours."""
        ours = self._our_table
        return ours.with_name(f"{ours.stem}-tensorrt.cache")

    @property
    def _our_table(self) -> Path:
        s = self.context.settings
        return s.table or cache_path(s.cache, s.source.name, self.context.view.digest)

    def _batches(self) -> Batches:
        context = self.context
        faces = context.faces[0]
        feeder = context.feeder(faces)
        takes = tuple(replace(spec, dtype="float32") if spec.dtype == "float64" else spec for spec in feeder.takes)
        return Batches(replace(feeder, takes=takes), len(faces), context.batch)

    def _compare_tables(self, engine: BuiltEngine) -> Mapping[str, object] | None:
        """Say where TensorRT's own calibration differs most from ours; all of it for the manifest."""
        if engine.calibration is None:
            return None
        found = compare_tables(self.ranges.table, engine.calibration)
        shown = ", ".join(f"{change.name} x{change.ratio:.3g}" for change in found.changes[:_SHOWN])
        self.context.note(
            f"TensorRT calibrated {len(engine.calibration)} tensors itself; it differs most from our table in {shown}. "
            f"All of them: {shlex.join(('trt-ff', 'cache', 'diff', str(self._our_table), str(self._own_table)))}"
        )
        return {
            "table": str(self._own_table),
            "amax": {change.name: [change.first, change.second] for change in found.changes},
            "only_ours": list(found.only_first),
            "only_tensorrt": list(found.only_second),
        }

    def check_files(self) -> None:
        """Read the plan and the table that the user named, so that what is wrong with them is told at once.

        Raises:
            StoreError: the calibration could not be stored.
            PlanError: the plan is malformed, or is not this model's.
            CalibrationCacheError: the table is damaged, or is not this model's.
        """
        if self.context.settings.plan is not None:
            self.plan(Precision.INT8)
        if self.context.settings.table is None:
            require_writable(self.context.settings.cache)
        else:
            load_named(self.context.settings.table, model_digest=self.context.view.digest)

    def plan(self, precision: Precision) -> Plan:
        """The user's plan, the searched one or that of the rules, with nothing cheaper than ``precision``."""
        s = self.context.settings
        view = self.context.view
        if s.plan is not None:
            plan = read_plan(s.plan, view, view.digest, s.source.name)
        elif precision is Precision.FP32:
            plan = plan_by_rules(view, {}, s.source.name)
        elif precision is Precision.INT8 and self._searches:
            plan = self.search.plan()
        else:
            plan = self.by_rules
        return plan.capped(precision)

    @property
    def _searches(self) -> bool:
        settings = self.context.settings
        return settings.plan is None and settings.planner == "auto"

    @property
    def searched(self) -> Mapping[str, Any] | None:
        """What the plan search measured, for `search.json`; None where none was made."""
        search = self.search if self._searches else self._repairing
        return None if search is None else search.as_dict()

    @cached_property
    def by_rules(self) -> Plan:
        """The plan by rules, with what calibration saw."""
        return plan_by_rules(self.context.view, self.ranges.amax, self.context.settings.source.name, self.ranges.seen)

    @cached_property
    def search(self) -> PlanSearch:
        """The search among all layers that can be INT8, but for those that would get no INT8 kernel."""
        s = self.context.settings
        rules = self.by_rules
        widest = opened(rules, candidates(rules, self.context.view, self.ranges.table))
        excluded = self._without_kernel(widest)
        if excluded:
            self.context.note(f"no candidates for INT8: {'; '.join(f'{n}: {why}' for n, why in excluded.items())}")
        widest = widest.raised(excluded)
        gate = s.gate(Precision.INT8)
        asked = "max_ssim_drop" in s.limits
        corrections = self.correcting.of(widest)
        return PlanSearch(
            self.context, self.ranges, widest, gate, asked=asked, excluded=excluded, corrections=corrections
        )

    def _without_kernel(self, plan: Plan) -> dict[str, str]:
        """Layers that the engine maker runs in float, though all of ``plan`` is offered in INT8: name -> reason.

        Asked where an answer takes seconds: TensorRT-RTX compiles without timing kernels.
        """
        backend = self.context.choice.backend
        if backend.name != "tensorrt-rtx" or not plan.names(Precision.INT8):
            return {}
        engine, coverage = self._compiled(plan, self.lowered(plan))
        if not engine.kernels_known or coverage.real == 0:
            return {}
        return dict.fromkeys(coverage.missing, f"{backend.name} {engine.backend_version} builds no INT8 kernel for it")

    def shapes(self) -> Mapping[str, ShapeRange]:
        """Smallest, usual and largest shape of every input."""
        batch = self.context.settings.batch
        result: dict[str, ShapeRange] = {}
        for spec in self.context.prepared.inputs:
            smallest, usual, largest = (
                tuple(size if isinstance(size, int) else samples for size in spec.shape)
                for samples in (batch.min, batch.opt, batch.max)
            )
            result[spec.name] = (smallest, usual, largest)
        return result

    def until_right(
        self, plan: Plan, precision: Precision
    ) -> tuple[Plan, onnx.ModelProto, Accuracy, Verdict, tuple[Repair, ...]]:
        """Verify ``plan``; where that fails, take the next one of the search, a bounded number of times.

        Raises:
            GateError: no plan was right.
        """
        gate = self.gate(precision)
        repairs: list[Repair] = []
        if precision is Precision.INT8 and not plan.names(Precision.INT8):
            if self._searches:
                raise GateError(f"int8: {self.search.shortfall()}", _WIDEN)
            raise GateError("int8: the plan has no node in int8", "give nodes int8 in the plan (--plan)")
        while True:
            typed = self.lowered(plan)
            accuracy = self.verify(typed, precision)
            verdict = gate.check(accuracy)
            if verdict or precision is not Precision.INT8 or len(repairs) >= self.context.settings.repairs:
                break
            stricter = self._search_of(plan).stricter(accuracy, plan)
            if stricter is None:
                break  # nothing helps, or nothing would be left in INT8
            raised = [name for name in plan.names(Precision.INT8) if name not in stricter.names(Precision.INT8)]
            repairs.append(Repair(tuple(raised), accuracy.ssim_drop))
            shown = ", ".join(raised[:_SHOWN]) + (f" and {len(raised) - _SHOWN} more" if len(raised) > _SHOWN else "")
            self.context.note(
                f"{precision.value}: {'; '.join(verdict.reasons)}. Raising {len(raised)} nodes to fp16 "
                f"({shown}), round {len(repairs)} of {self.context.settings.repairs}"
            )
            plan = stricter
        if not verdict:
            raise GateError(
                f"{precision.value}: {'; '.join(verdict.reasons)}",
                _WIDEN if precision is Precision.INT8 else _MORE_PRECISION,
            )
        return plan, typed, accuracy, verdict, tuple(repairs)

    def gate(self, precision: Precision) -> Limits:
        """The gate of one precision; a file that computes in FP16 itself allows FP32 that much."""
        gate = self.context.settings.gate(precision)
        if precision is Precision.FP32 and computes_in_half(self.context.original.loaded):
            return gate.changed({"max_ssim_drop": max(gate["max_ssim_drop"], MAX_SSIM_DROP[Precision.FP16])})
        return gate

    def _search_of(self, plan: Plan) -> PlanSearch:
        """The search that made ``plan``; for a plan of another origin, one among the nodes that it has in INT8."""
        if self._searches:
            return self.search
        if self._repairing is None:
            gate = self.context.settings.gate(Precision.INT8)
            corrections = self.correcting.of(plan)
            self._repairing = PlanSearch(
                self.context, self.ranges, plan, gate, asked=True, excluded={}, corrections=corrections
            )
        return self._repairing

    def lowered(self, plan: Plan, base: Precision = Precision.FP16) -> onnx.ModelProto:
        """The typed ONNX of ``plan``."""
        if not plan.names(Precision.INT8):
            return lower(self.context.view, plan, {}, base)
        if self.context.choice.backend.name == "onnxruntime":
            return self.storing.lowered(plan)
        corrections = self.correcting.of(plan)
        return lower(self.context.view, plan, self.ranges.table, base, self.ranges.affines, corrections)

    def verify(self, typed: onnx.ModelProto, precision: Precision) -> Accuracy:
        """The typed model's pictures of the verification faces against those of what was handed in."""
        context = self.context
        faces = context.faces[1]
        evaluator = self._evaluator
        with self.stand_in(typed, f"the lowered {precision.value} graph") as runner:
            pictures = evaluator.paint(runner, progress=context.progress, stage=f"verify {precision.value}")
        context.progress(f"judge {precision.value}", 0, 0)
        accuracy = evaluator.accuracy(pictures)
        self.gallery.add(precision, accuracy, faces, context.feeder(faces).sources, evaluator.reference, pictures)
        return accuracy

    @cached_property
    def _evaluator(self) -> PictureEvaluator:
        """Judges by the verification faces, in the batch that is built."""
        context, faces = self.context, self.context.faces[1]
        metrics = open_metrics(Tools(context.embedder, context.settings.preset.template))
        return PictureEvaluator(context.judge_renderer(faces), range(len(faces)), context.reference, metrics)

    def stand_in(self, typed: onnx.ModelProto, called: str = "the lowered graph") -> OnnxRuntimeRunner:
        """Runs the engine itself where it is onnxruntime's, otherwise its numerical stand-in on the CPU."""
        return OnnxRuntimeRunner(typed, stand_in=self.context.choice.backend.name != "onnxruntime", ours=called)

    def _changed_types(self) -> list[str]:
        """What the engine takes or gives in another type than the file: TensorRT has no float64."""
        prepared, maker = self.context.prepared, self.context.choice.backend.name
        doubles = [spec.name for spec in (*prepared.inputs, *prepared.outputs) if spec.dtype == "float64"]
        if not doubles or maker == "onnxruntime":
            return []
        return [f"{maker} has no float64: {', '.join(doubles)} {'is' if len(doubles) == 1 else 'are'} float32 here"]

    def _complain(self, coverage: Coverage, engine: BuiltEngine) -> None:
        for note in (*engine.notes, *self._changed_types()):
            self.context.warn(note)
        if not coverage.missing:
            return
        names = ", ".join(coverage.missing)
        if not engine.kernels_known:
            message = "the engine maker's log could not be read, so no INT8 kernel is proven"
        else:
            message = f"{len(coverage.missing)} of {coverage.planned} planned INT8 nodes are no INT8 kernel: {names}"
        if self.context.settings.strict:
            raise BuildError(message, "give these nodes fp16 in the plan (--plan), or leave --strict out")
        self.context.warn(message, Precision.INT8)


def _wasted(coverage: Coverage, engine: BuiltEngine) -> bool:
    """Whether INT8 was spent on layers that run in float; onnxruntime runs most of what is placed for GPUs so."""
    return bool(coverage.missing) and coverage.real > 0 and engine.backend != "onnxruntime"
