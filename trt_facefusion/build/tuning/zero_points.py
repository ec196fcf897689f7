"""One zero point for a tensor in place of shifted channels, for a backend that pads with zero points."""

from __future__ import annotations

import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import open_calibration_evaluator
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.channels import ChannelRanges, measure_channel_ranges
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.lowering.zero_points import find_shifted_tensors, use_zero_points
from trt_facefusion.sampling import spread

_WORTH_A_PAD = 0.001
"""SSIM that shifts of channels must save before they are worth a Pad, and a quantiser, of their own in each layer."""


class ZeroPoints:
    """Rewrites lowered graphs of one build; ``view`` is the FP32 graph that they were lowered from.

    ``tried`` is what was measured: ``shifts`` and ``zero points`` -> mean SSIM drop on validation faces.
    """

    def __init__(self, inputs: BuildInputs, view: GraphView) -> None:
        self.inputs, self.view = inputs, view
        self.tried: dict[str, float] = {}
        self._ranges: dict[str, ChannelRanges] = {}

    def apply(self, typed: onnx.ModelProto) -> onnx.ModelProto:
        """``typed`` about zero points, or as it is where the pictures of the first graph wanted that."""
        tensors = {shifted.tensor for shifted in find_shifted_tensors(typed)}
        if not tensors:
            return typed
        self._measure(sorted(tensors - self._ranges.keys()))
        rewritten = use_zero_points(typed, self._ranges)
        if not self.tried:
            self._compare(typed, rewritten)
        return rewritten if self.pays else typed

    @property
    def pays(self) -> bool:
        """Whether zero points lose so little that they are taken."""
        return self.tried["zero points"] - self.tried["shifts"] < _WORTH_A_PAD

    def describe(self) -> dict[str, object]:
        """For the manifest: what was tried, and what was taken; nothing where no channel is shifted."""
        return {"zero_points": self.pays, "zero_points_ssim_drop": dict(self.tried)} if self.tried else {}

    def _measure(self, tensors: list[str]) -> None:
        faces, network = self.inputs.faces.calibration, self.inputs.network
        few = faces.subset(spread(len(faces), self.inputs.level.correcting_faces))
        if tensors:
            batches = Batches(network.make_feeder(few), len(few), network.smallest_batch)
            self._ranges |= measure_channel_ranges(
                self.view.model, tensors, batches, progress=self.inputs.reporter.progress
            )

    def _compare(self, shifts: onnx.ModelProto, zero_points: onnx.ModelProto) -> None:
        evaluator = open_calibration_evaluator(self.inputs, self.inputs.level.validation_faces)
        for name, model in (("shifts", shifts), ("zero points", zero_points)):
            with OnnxRuntimeRunner(model, stand_in=True, ours=f"the graph with {name}") as runner:
                self.tried[name] = evaluator.ssim_drop(runner)
        taken = "one zero point for each tensor" if self.pays else "a shift for each channel"
        shown = ", ".join(f"{name} {drop:.3%}" for name, drop in self.tried.items())
        self.inputs.reporter.note(f"activations: {taken}; SSIM drop on calibration faces: {shown}")
