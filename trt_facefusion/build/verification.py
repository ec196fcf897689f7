"""Is a lowered plan right? Judged on faces that nothing was tuned on, and repaired where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.build.compilation import LoweredPlan
from trt_facefusion.build.gallery import Gallery
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import GateError
from trt_facefusion.evaluation.accuracy.gate import MAX_SSIM_DROP, Gate, Verdict
from trt_facefusion.evaluation.accuracy.judge import Accuracy, judge
from trt_facefusion.evaluation.accuracy.perceptual import PerceptualDistance
from trt_facefusion.inference.original import computes_in_half
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision

_SHOWN = 5
_MORE_PRECISION = "add calibration faces like those that it will see, or give nodes more precision in the plan (--plan)"
WIDEN = f"{_MORE_PRECISION}, or widen the limit (--max-ssim-drop)"
"""What to do where INT8 is not right."""


@dataclass(frozen=True)
class Repair:
    """One round of repair: the nodes that were raised, and the mean SSIM drop before."""

    nodes: tuple[str, ...]
    ssim_drop_before: float


@dataclass(frozen=True)
class VerifiedPlan:
    """A lowered plan that passed its gate, after the repairs that it took."""

    lowered: LoweredPlan
    accuracy: Accuracy
    verdict: Verdict
    repairs: tuple[Repair, ...]

    @property
    def plan(self) -> Plan:
        """The plan as it passed."""
        return self.lowered.plan


class Verifier:
    """Judges lowered graphs of one build; keeps the pictures that its report shows."""

    def __init__(self, inputs: BuildInputs) -> None:
        self.inputs = inputs
        self.gallery = Gallery()
        self._perceptual = PerceptualDistance()

    def gate(self, precision: Precision) -> Gate:
        """The gate of one precision; a file that computes in FP16 itself allows FP32 that much."""
        gate = self.inputs.settings.gate(precision)
        if precision is Precision.FP32 and computes_in_half(self.inputs.network.original.loaded):
            return replace(gate, max_ssim_drop=max(gate.max_ssim_drop, MAX_SSIM_DROP[Precision.FP16]))
        return gate

    def verify(self, typed: onnx.ModelProto, precision: Precision) -> Accuracy:
        """The typed model's pictures of the verification faces against those of what was handed in."""
        inputs, reporter = self.inputs, self.inputs.reporter
        faces, reference = inputs.faces.verification, self._reference()
        with self._open_stand_in(typed, precision) as runner:
            pictures = inputs.network.judge_renderer(faces)(
                runner, None, reporter.progress, f"verify {precision.value}"
            )
        reporter.progress(f"judge {precision.value}", 0, 0)
        accuracy = judge(
            reference,
            pictures,
            template=inputs.settings.preset.template,
            embedder=inputs.network.embedder,
            perceptual=self._perceptual,
        )
        self.gallery.add(precision, accuracy, faces, inputs.network.feeder(faces).sources, reference, pictures)
        return accuracy

    def _reference(self) -> NDArray[np.float32]:
        reference = self.inputs.proof.reference
        if reference is None:
            raise GateError("there is no face to judge on", "name a folder with --eval")
        return reference

    def _open_stand_in(self, typed: onnx.ModelProto, precision: Precision) -> OnnxRuntimeRunner:
        """Runs the engine itself where it is onnxruntime's, otherwise its numerical stand-in on the CPU."""
        stand_in = not self.inputs.job.selection.backend.capabilities.runs_here
        return OnnxRuntimeRunner(typed, stand_in=stand_in, ours=f"the lowered {precision.value} graph")

    def verify_with_repair(
        self,
        plan: Plan,
        precision: Precision,
        lower: Callable[[Plan], LoweredPlan],
        stricter: Callable[[Accuracy, Plan], Plan | None],
        repairs: tuple[Repair, ...] = (),
    ) -> VerifiedPlan:
        """Verify ``plan``; where INT8 fails, take the next ``stricter`` one, a bounded number of times.

        Raises:
            GateError: no plan was right.
        """
        gate, reporter, most = self.gate(precision), self.inputs.reporter, self.inputs.settings.repairs
        rounds: list[Repair] = []
        while True:
            lowered = lower(plan)
            accuracy = self.verify(lowered.typed, precision)
            verdict = gate.check(accuracy)
            if verdict:
                return VerifiedPlan(lowered, accuracy, verdict, (*repairs, *rounds))
            next_plan = None
            if precision is Precision.INT8 and len(rounds) < most:
                next_plan = stricter(accuracy, plan)
            if next_plan is None:  # nothing helps, or nothing would be left in INT8
                remedy = WIDEN if precision is Precision.INT8 else _MORE_PRECISION
                raise GateError(f"{precision.value}: {'; '.join(verdict.reasons)}", remedy)
            left = set(next_plan.names(Precision.INT8))
            raised = [name for name in plan.names(Precision.INT8) if name not in left]
            rounds.append(Repair(tuple(raised), accuracy.ssim_drop))
            more = f" and {len(raised) - _SHOWN} more" if len(raised) > _SHOWN else ""
            reporter.note(
                f"{precision.value}: {'; '.join(verdict.reasons)}. Raising {len(raised)} nodes to fp16 "
                f"({', '.join(raised[:_SHOWN])}{more}), round {len(rounds)} of {most}"
            )
            plan = next_plan
