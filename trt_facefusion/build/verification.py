"""Is a lowered plan right? Judged on faces that nothing was tuned on, and repaired where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.compilation import CompiledEngine, compile_plan
from trt_facefusion.build.gallery import Gallery
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.lowered_plan import LoweredPlan
from trt_facefusion.build.simulation import Simulation, simulate
from trt_facefusion.engine.backends.base import RunOptions
from trt_facefusion.engine.backends.capabilities import Judged
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import GateError
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.evaluation.accuracy.gate import MAX_SSIM_DROP, Limits, Verdict
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.registry import open_metrics
from trt_facefusion.inference.original import computes_in_half
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision

_SHOWN = 5
_MORE_PRECISION = "add calibration faces like those that it will see, or give nodes more precision in the plan (--plan)"
WIDEN = f"{_MORE_PRECISION}, or widen the limit (--max-ssim-drop)"
"""What to do where INT8 is not right."""
NO_GAIN = "build FP16 for this GPU (--fp16), or have the plan searched by arithmetic all the same (--objective macs)"
"""What to do where INT8 is not faster."""


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
    simulation: Simulation | None = None

    @property
    def plan(self) -> Plan:
        """The plan as it passed."""
        return self.lowered.plan


class Verifier:
    """Judges lowered graphs of one build; keeps the pictures that its report shows."""

    def __init__(self, inputs: BuildInputs) -> None:
        self.inputs = inputs
        self.gallery = Gallery()
        self._evaluator = _open_evaluator(inputs)
        self._compiled: tuple[LoweredPlan, CompiledEngine] | None = None
        self.simulation: Simulation | None = None
        """Of what was verified last; None where nothing was simulated."""

    def choose_gate(self, precision: Precision) -> Limits:
        """The gate of one precision; a file that computes in FP16 itself allows FP32 that much."""
        gate = self.inputs.settings.choose_gate(precision)
        if precision is Precision.FP32 and computes_in_half(self.inputs.network.original.loaded):
            return gate.changed({"max_ssim_drop": max(gate["max_ssim_drop"], MAX_SSIM_DROP[Precision.FP16])})
        return gate

    def verify(self, lowered: LoweredPlan, precision: Precision) -> Accuracy:
        """A lowered plan's pictures of the verification faces against those of what was handed in."""
        inputs, reporter, evaluator = self.inputs, self.inputs.reporter, self._evaluator
        faces = inputs.faces.verification
        with self._open_judged(lowered, precision) as runner:
            pictures = evaluator.paint(runner, progress=reporter.progress, stage=f"verify {precision.value}")
        reporter.progress(f"judge {precision.value}", 0, 0)
        accuracy = evaluator.accuracy(pictures)
        self.simulation = None
        simulated = inputs.job.selection.backend.capabilities.judged is Judged.SIMULATED
        if simulated and self.choose_gate(precision).check(accuracy):
            pictures, self.simulation = self._simulate(lowered, pictures)
            accuracy = evaluator.accuracy(pictures)
        sources = inputs.network.make_feeder(faces).sources
        self.gallery.add(precision, accuracy, faces, sources, evaluator.reference, pictures)
        return accuracy

    def compile(self, lowered: LoweredPlan) -> CompiledEngine:
        """The engine of a lowered plan: the one that was judged, if it was compiled for that.

        Raises:
            BuildError: the backend refused the network.
        """
        if self._compiled is None or self._compiled[0] is not lowered:
            self._compiled = None  # two engines at once would be one too many
            self._compiled = (lowered, compile_plan(self.inputs, lowered))
        return self._compiled[1]

    def _simulate(self, lowered: LoweredPlan, pictures: NDArray[np.float32]) -> tuple[NDArray[np.float32], Simulation]:
        """A few faces by the engine itself, in its library's simulator; the others stay as the stand-in painted them.

        Raises:
            GateError: the stand-in is too far from the simulator.
        """
        reporter, engine = self.inputs.reporter, self.compile(lowered).engine
        with self.inputs.job.selection.backend.open(engine.data, RunOptions()) as runner:
            mixed, simulation = simulate(self._evaluator, runner, pictures, reporter.progress, reporter.note)
        record = simulation.as_dict()
        reporter.note(
            f"simulated: {len(simulation.faces)} of {simulation.judged} faces, {record['seconds_a_face']:.0f} s each; "
            f"{record['psnr_to_stand_in']:.1f} dB from the stand-in, SSIM drop {record['ssim_drop']:.3%}"
        )
        return mixed, simulation

    def _open_judged(self, lowered: LoweredPlan, precision: Precision) -> Runner:
        """Runs the engine itself where this processor can, otherwise its numerical stand-in."""
        backend = self.inputs.job.selection.backend
        if backend.capabilities.judged is Judged.ENGINE:
            return backend.open(self.compile(lowered).engine.data, RunOptions())
        stand_in = backend.capabilities.judged in {Judged.STAND_IN, Judged.SIMULATED}
        return OnnxRuntimeRunner(lowered.typed, stand_in=stand_in, ours=f"the lowered {precision.value} graph")

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
        gate, reporter, most = self.choose_gate(precision), self.inputs.reporter, self.inputs.settings.repairs
        rounds: list[Repair] = []
        while True:
            lowered = lower(plan)
            accuracy = self.verify(lowered, precision)
            verdict = gate.check(accuracy)
            if verdict:
                return VerifiedPlan(lowered, accuracy, verdict, (*repairs, *rounds), self.simulation)
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


def _open_evaluator(inputs: BuildInputs) -> PictureEvaluator:
    """Judges by the verification faces, in the batch that is built.

    Raises:
        GateError: there is none.
    """
    faces, reference = inputs.faces.verification, inputs.proof.reference
    if reference is None:
        raise GateError("there is no face to judge on", "name a folder with --eval")
    metrics = open_metrics(inputs.tools, limit_names=inputs.settings.limits)
    return PictureEvaluator(inputs.network.make_judge_renderer(faces), range(len(faces)), reference, metrics)
