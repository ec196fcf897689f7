"""The corrections of a build: computed on calibration faces, tried on others of them, kept where the pictures gain."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import open_calibration_evaluator
from trt_facefusion.build.tuning.layer_corrections import Kinds, LayerCorrections
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.kinds import LAYER_CORRECTIONS, parse_corrections
from trt_facefusion.quantization.correction.weight_correction import Correction, Corrections
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision

LowerPlan = Callable[[Plan, Corrections], onnx.ModelProto]
AUTO = (("bias",), ("scales", "bias"))
"""What `auto` tries of the corrections of layers."""


class LayerCorrector:
    """Corrects one model's INT8 layers over one table; each layer's correction is computed once, whatever the plan.

    ``lower_plan`` makes the graphs that are tried, ``levels`` are the steps of activations' grids either way from zero.

    ``tried`` is what was measured: corrections -> mean SSIM drop on the validation faces. ``kinds`` are what is
    corrected; nothing before the first plan.
    """

    def __init__(
        self, inputs: BuildInputs, ranges: Ranges, lower_plan: LowerPlan | None = None, levels: int = INT8_MAX
    ) -> None:
        self.inputs, self.ranges = inputs, ranges
        self._lower_plan = lower_plan or self._lower_in_floats
        self.tried: dict[str, float] = {}
        self.kinds: Kinds = ()
        self._decided = False
        self._layers = LayerCorrections(inputs, ranges, levels)
        self._computed: dict[Kinds, dict[str, Correction | None]] = {}

    def correct(self, plan: Plan) -> Corrections:
        """The corrections of the INT8 nodes of ``plan``; runs inferences for what no plan before had in INT8.

        What is corrected is decided by the first plan, by pictures.
        """
        if not self._decided:
            self.kinds, self._decided = self._decide(plan), True
        return self._correct(plan, self.kinds)

    def describe(self) -> dict[str, object]:
        """For the manifest: what is corrected, and the mean SSIM drop of all that was tried."""
        return {"corrections": list(self.kinds), "corrections_ssim_drop": dict(self.tried)}

    def _decide(self, plan: Plan) -> Kinds:
        named = parse_corrections(self.inputs.settings.corrections)
        candidates = AUTO if named is None else (tuple(kind for kind in LAYER_CORRECTIONS if kind in named),)
        if candidates == ((),):
            return ()
        measure = self._measure(plan)
        drops = {kinds: measure(kinds) for kinds in ((), *candidates)}
        self.tried = {" + ".join(kinds) or "none": drop for kinds, drop in drops.items()}
        best = min(drops, key=lambda kinds: drops[kinds]) if named is None else candidates[0]
        shown = ", ".join(f"{name} {drop:.3%}" for name, drop in sorted(self.tried.items(), key=itemgetter(1)))
        self.inputs.reporter.note(
            f"layers corrected: {' + '.join(best) or 'none'}; SSIM drop on calibration faces: {shown}"
        )
        self._computed = {best: self._computed[best]} if best in self._computed else {}
        return best

    def _measure(self, plan: Plan) -> Callable[[Kinds], float]:
        evaluator = open_calibration_evaluator(self.inputs, self.inputs.level.validation_faces)

        def measure_drop(kinds: Kinds) -> float:
            held = [self._lower_plan(plan, self._correct(plan, kinds))]
            with OnnxRuntimeRunner(held.pop, ours="the corrected graph") as runner:
                return evaluator.ssim_drop(runner)

        return measure_drop

    def _lower_in_floats(self, plan: Plan, corrections: Corrections) -> onnx.ModelProto:
        ranges, pairs = self.ranges, self.inputs.pairs
        return lower(ranges.view, plan, ranges.amax, Precision.FP32, ranges.affines, corrections, pairs=pairs)

    def _correct(self, plan: Plan, kinds: Kinds) -> Corrections:
        if not kinds:
            return {}
        computed = self._computed.setdefault(kinds, {})
        names = plan.names(Precision.INT8)
        new = [name for name in names if name not in computed]
        if new:
            computed |= dict.fromkeys(new)
            computed |= self._layers.compute(new, kinds)
        return {name: correction for name in names if (correction := computed[name]) is not None}
