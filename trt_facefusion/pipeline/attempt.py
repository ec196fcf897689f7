"""One precision of a build: plan, lower, verify, gate, repair, compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.accuracy.gate import Verdict
from trt_facefusion.accuracy.judge import Accuracy, judge
from trt_facefusion.accuracy.perceptual import PerceptualDistance
from trt_facefusion.backends.base import BuildRequest, BuiltEngine, ShapeRange, WeakTyping
from trt_facefusion.backends.kernels import Coverage, int8_coverage
from trt_facefusion.calibration import Batches, compare
from trt_facefusion.calibration.cache import cache_path, load_named
from trt_facefusion.errors import BuildError, GateError
from trt_facefusion.export import model_digest
from trt_facefusion.lowering import lower, lower_to_integers
from trt_facefusion.lowering.equalise import equalised
from trt_facefusion.pipeline.calibrate import Ranges, require_writable
from trt_facefusion.pipeline.context import Context
from trt_facefusion.pipeline.gallery import Gallery
from trt_facefusion.pipeline.repair import Price, choose_raises, measure_prices, without
from trt_facefusion.precision import Plan, plan_by_rules, read_plan
from trt_facefusion.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.types import Precision

MEASURING_FACES = 8
"""Calibration faces on which nodes are priced: one pass over them for every INT8 node."""
_SHOWN = 5


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


class Attempts:
    """Makes engines of one model; what they share (ranges, prices) is computed once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.gallery = Gallery()
        self._perceptual = PerceptualDistance()

    @cached_property
    def ranges(self) -> Ranges:
        """The calibration, made when first asked for."""
        return Ranges(self.context)

    def make(self, precision: Precision) -> Made:
        """An engine of ``precision`` that passed its gate.

        Raises:
            GateError: the pictures are not right, also after the repairs that are allowed.
            BuildError: the engine maker refused it, or ``strict`` is on and a planned INT8 kernel is missing.
        """
        plan = self.plan(precision)
        plan, typed, accuracy, verdict, repairs = self._until_right(plan, precision)
        engine = self.context.choice.backend.build(self.request(plan, typed), self.context.progress)
        planned = {n.name: n.op for n in plan.nodes if n.precision is Precision.INT8}
        coverage = int8_coverage(planned, engine.kernels)
        self._complain(coverage, engine)
        return Made(plan, typed, accuracy, verdict, engine, coverage, repairs, self._compare_tables(engine))

    def request(self, plan: Plan, typed: onnx.ModelProto) -> BuildRequest:
        """What the engine maker is asked for: the typed graph, and the plan itself for one that types weakly."""
        context = self.context
        weak = self._weak(plan) if context.choice.backend.name == "tensorrt" else None
        return BuildRequest(
            typed.SerializeToString(),
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
        if int8 and self.ranges.exponents:
            model = equalised(context.view, int8, self.ranges.exponents)
            precisions |= {
                node.name: Precision.FP16 for node in model.graph.node if node.name not in context.view.nodes
            }
        return WeakTyping(
            model=model.SerializeToString(),
            precisions=precisions,
            table=self.ranges.table if int8 else None,
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
        return s.table or cache_path(s.cache, s.source.name, model_digest(self.context.prepared.model))

    def _batches(self) -> Batches:
        context = self.context
        faces = context.faces[0]
        return Batches(context.feeder(faces), len(faces), context.batch)

    def _compare_tables(self, engine: BuiltEngine) -> Mapping[str, object] | None:
        """Say where TensorRT's own calibration differs most from ours; all of it for the manifest."""
        if engine.calibration is None:
            return None
        found = compare(self.ranges.table, engine.calibration)
        shown = ", ".join(f"{change.name} x{change.ratio:.3g}" for change in found.changes[:_SHOWN])
        self.context.note(
            f"TensorRT calibrated {len(engine.calibration)} tensors itself; it differs most from our table in {shown}. "
            f"All of them: trt-ff cache diff {self._our_table} {self._own_table}"
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
            load_named(self.context.settings.table, model_digest=model_digest(self.context.prepared.model))

    def plan(self, precision: Precision) -> Plan:
        """The user's plan or the one by rules, with nothing cheaper than ``precision``."""
        s = self.context.settings
        view = self.context.view
        if s.plan is not None:
            plan = read_plan(s.plan, view, model_digest(view.model), s.source.name)
        elif precision is Precision.FP32:
            plan = plan_by_rules(view, {}, s.source.name)
        else:
            plan = plan_by_rules(view, self.ranges.amax, s.source.name)
        return plan.capped(precision)

    def shapes(self) -> Mapping[str, ShapeRange]:
        """Smallest, usual and largest shape of every input."""
        batch = self.context.settings.batch
        result: dict[str, ShapeRange] = {}
        for spec in self.context.prepared.inputs:
            rest = tuple(int(size) for size in spec.shape[1:])
            dynamic = isinstance(spec.shape[0], str)
            sizes = (batch.min, batch.opt, batch.max) if dynamic else (int(spec.shape[0]),) * 3
            result[spec.name] = ((sizes[0], *rest), (sizes[1], *rest), (sizes[2], *rest))
        return result

    def _until_right(
        self, plan: Plan, precision: Precision
    ) -> tuple[Plan, onnx.ModelProto, Accuracy, Verdict, tuple[Repair, ...]]:
        """Verify; where that fails, raise the nodes that cost most, a bounded number of times."""
        gate = self.context.settings.gate(precision)
        repairs: list[Repair] = []
        prices: tuple[Price, ...] | None = None
        if precision is Precision.INT8 and not plan.names(Precision.INT8):
            raise GateError("int8: the plan has no node in int8", "give nodes int8 in the plan (--plan)")
        while True:
            typed = self.lowered(plan)
            accuracy = self.verify(typed, precision)
            verdict = gate.check(accuracy)
            if verdict or precision is not Precision.INT8 or len(repairs) >= self.context.settings.repairs:
                break
            if prices is None:
                prices = self._prices(plan)
            deficit = accuracy.ssim_drop - gate.max_ssim_drop
            raised = choose_raises(prices, max(deficit, 1e-4))
            if not raised or len(raised) == len(plan.names(Precision.INT8)):
                break  # nothing helps, or nothing would be left in INT8
            prices = without(prices, raised)
            repairs.append(Repair(tuple(raised), accuracy.ssim_drop))
            self.context.note(
                f"{precision.value}: {'; '.join(verdict.reasons)}. Raising {len(raised)} nodes to fp16 "
                f"({', '.join(raised)}), round {len(repairs)} of {self.context.settings.repairs}"
            )
            plan = plan.raised(raised)
        if not verdict:
            raise GateError(
                f"{precision.value}: {'; '.join(verdict.reasons)}",
                "add calibration faces like those that it will see, or give nodes more precision in the plan (--plan)"
                + (", or widen the limit (--max-ssim-drop)" if precision is Precision.INT8 else ""),
            )
        return plan, typed, accuracy, verdict, tuple(repairs)

    def lowered(self, plan: Plan, base: Precision = Precision.FP16) -> onnx.ModelProto:
        """The typed ONNX of ``plan``."""
        if not plan.names(Precision.INT8):
            return lower(self.context.view, plan, {}, base)
        if self.context.choice.backend.name == "onnxruntime":
            return lower_to_integers(self.context.view, plan, self.ranges.table, self.ranges.exponents)
        return lower(self.context.view, plan, self.ranges.table, base, self.ranges.exponents)

    def verify(self, typed: onnx.ModelProto, precision: Precision) -> Accuracy:
        """The typed model's pictures of the verification faces against FP32's."""
        context = self.context
        faces = context.faces[1]
        reference = context.reference
        if typed is context.prepared.model:
            pictures = reference
        else:
            with self.stand_in(typed) as runner:
                pictures = context.painter(faces)(runner, None, context.progress, f"verify {precision.value}")
        context.progress(f"judge {precision.value}", 0, 0)
        accuracy = judge(
            reference,
            pictures,
            template=context.settings.preset.template,
            embedder=context.embedder,
            perceptual=self._perceptual,
        )
        self.gallery.add(precision, accuracy, faces, context.feeder(faces).sources, reference, pictures)
        return accuracy

    def stand_in(self, typed: onnx.ModelProto) -> OnnxRuntimeRunner:
        """Runs the engine itself where it is onnxruntime's, otherwise its numerical stand-in on the CPU."""
        return OnnxRuntimeRunner(typed, stand_in=self.context.choice.backend.name != "onnxruntime")

    def _prices(self, plan: Plan) -> tuple[Price, ...]:
        context = self.context
        faces = context.faces[0]
        count = min(MEASURING_FACES, len(faces))
        chosen = np.linspace(0, len(faces) - 1, count).round().astype(int).tolist()
        painter = context.painter(faces)

        def paint(candidate: Plan) -> NDArray[np.float32]:
            with OnnxRuntimeRunner(self.lowered(candidate, base=Precision.FP32)) as runner:
                return painter(runner, chosen)

        reference = context.paint_reference(faces, "reference pictures", chosen)
        return measure_prices(plan, paint, reference, context.progress)

    def _complain(self, coverage: Coverage, engine: BuiltEngine) -> None:
        for note in engine.notes:
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
