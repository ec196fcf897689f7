"""One zero point for a tensor in place of shifted channels, for a backend that pads with zero points."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import open_calibration_evaluator
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.channels import ChannelHistogram, sample_channels
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.lowering.zero_points import find_shifted_tensors, use_zero_points
from trt_facefusion.sampling import spread

_WORTH_A_PAD = 0.001
"""SSIM that shifts of channels must save before they are worth a Pad, and a quantiser, of their own in each layer."""

_TAILS = (0.0, 1e-5, 1e-4)
"""Shares of a tensor's values that are clipped at either end, of which pictures choose."""


class ZeroPoints:
    """Rewrites lowered graphs of one build; ``view`` is the FP32 graph that they were lowered from.

    ``tried`` is what was measured: ``shifts``, and zero points by the share that is clipped -> mean SSIM drop on
    validation faces. The first graph decides for all.
    """

    def __init__(self, inputs: BuildInputs, view: GraphView) -> None:
        self.inputs, self.view = inputs, view
        self.tried: dict[str, float] = {}
        self._tail: float | None = None
        self._channels: dict[str, ChannelHistogram] = {}

    def apply(self, typed: onnx.ModelProto) -> onnx.ModelProto:
        """``typed`` about zero points; as it is where pictures lose too much by them."""
        shifted = {tensor.tensor: tensor.reciprocals for tensor in find_shifted_tensors(typed)}
        if not shifted:
            return typed
        self._look_at(sorted(shifted.keys() - self._channels.keys()))

        def rewrite(tail: float) -> onnx.ModelProto:
            bounds = {name: self._channels[name].measure_tails(factors, tail) for name, factors in shifted.items()}
            return use_zero_points(typed, bounds)

        if not self.tried:
            self._tail = self._choose_tail(typed, rewrite)
        return typed if self._tail is None else rewrite(self._tail)

    def describe(self) -> dict[str, object]:
        """For the manifest: what was tried, and what was taken; nothing where no channel is shifted."""
        return {"zero_points": self._tail, "zero_points_ssim_drop": dict(self.tried)} if self.tried else {}

    def _look_at(self, tensors: list[str]) -> None:
        faces, network = self.inputs.faces.calibration, self.inputs.network
        few = faces.subset(spread(len(faces), self.inputs.level.correcting_faces))
        if tensors:
            batches = Batches(network.make_feeder(few), len(few), network.smallest_batch)
            progress = self.inputs.reporter.progress
            self._channels |= sample_channels(self.view.model, (), tensors, batches, progress=progress)[1]

    def _choose_tail(self, shifts: onnx.ModelProto, rewrite: Callable[[float], onnx.ModelProto]) -> float | None:
        """The tail whose pictures lose least; None where shifts save so much more that they are worth their time."""
        evaluator = open_calibration_evaluator(self.inputs, self.inputs.level.validation_faces)

        def measure(name: str, model: onnx.ModelProto) -> float:
            with OnnxRuntimeRunner(model, stand_in=True, ours=f"the graph with {name}") as runner:
                self.tried[name] = evaluator.ssim_drop(runner)
            return self.tried[name]

        with_shifts = measure("shifts", shifts)
        drops = {tail: measure(f"zero points, {tail:g} clipped", rewrite(tail)) for tail in _TAILS}
        best = min(drops, key=lambda tail: drops[tail])
        pays = drops[best] - with_shifts < _WORTH_A_PAD
        shown = ", ".join(f"{name} {drop:.3%}" for name, drop in self.tried.items())
        taken = "one zero point for each tensor" if pays else "a shift for each channel"
        self.inputs.reporter.note(f"activations: {taken}; SSIM drop on calibration faces: {shown}")
        return best if pays else None
