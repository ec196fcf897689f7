"""The corrections of a build: computed on calibration faces, tried on others of them, kept where the pictures gain."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import open_calibration_evaluator
from trt_facefusion.build.tuning.layer_corrections import Kinds, LayerCorrections
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.quantization.correction.kinds import LAYER_CORRECTIONS, parse_corrections
from trt_facefusion.quantization.correction.weight_correction import Correction, Corrections
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision

AUTO = (("bias",), ("scales", "bias"))
"""What `auto` tries of the corrections of layers."""


class LayerCorrector:
    """Corrects one model's INT8 layers over one table; each layer's correction is computed once, whatever the plan.

    ``tried`` is what was measured: corrections -> mean SSIM drop on the validation faces. ``kinds`` are what is
    corrected; nothing before the first plan.
    """

    def __init__(self, inputs: BuildInputs, ranges: Ranges) -> None:
        self.inputs, self.ranges = inputs, ranges
        self.tried: dict[str, float] = {}
        self.kinds: Kinds = ()
        self._decided = False
        self._layers = LayerCorrections(inputs, ranges)
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
        inputs, ranges = self.inputs, self.ranges
        evaluator = open_calibration_evaluator(inputs, inputs.level.validation_faces)

        def measure_drop(kinds: Kinds) -> float:
            corrections = self._correct(plan, kinds)
            amax, affines = ranges.amax, ranges.affines
            held = [lower(ranges.view, plan, amax, Precision.FP32, affines, corrections, pairs=inputs.pairs)]
            with OnnxRuntimeRunner(held.pop, ours="the corrected graph") as runner:
                return evaluator.ssim_drop(runner)

        return measure_drop

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
