"""Integer operators for a CPU: which results have to be kept finer than in 8 bits, measured on calibration faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import open_calibration_evaluator
from trt_facefusion.build.tuning.corrections import LayerCorrector
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.channels import ChannelRanges, measure_channel_ranges
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.lowering import (
    find_nine_bit_candidates,
    find_storable_results,
    lower,
    lower_to_integers,
)
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision

ALLOWED = 8e-4
"""SSIM that storing results may cost on top of what the plan costs a GPU."""
_WORTHWHILE = ALLOWED / 10
"""What a second operator has to win: it takes as long as the first."""


@dataclass
class IntegerStorage:
    """Lowers one model's plans to integer operators; what is stored finer is decided by the first plan."""

    inputs: BuildInputs
    ranges: Ranges
    corrector: LayerCorrector
    tried: dict[tuple[str, ...], float] = field(default_factory=dict)
    """What was measured: results kept finer -> SSIM that storing costs."""
    _finer: tuple[str, ...] | None = None
    _channels: dict[str, ChannelRanges] | None = None

    def lower(self, plan: Plan) -> onnx.ModelProto:
        """``plan`` as an ONNX of integer operators; the first plan decides what is stored finer, by pictures."""
        if self._finer is None:
            self._finer = self._decide(plan)
        return self._lower(plan, self._finer)

    def describe(self) -> dict[str, object]:
        """For the manifest: the results that are kept finer, and what storing costs with all that was tried."""
        if self._finer is None:
            return {}
        tried = [{"finer": list(names), "ssim": cost} for names, cost in self.tried.items()]
        return {"stored_finer": list(self._finer), "stored_ssim_cost": tried}

    def _lower(self, plan: Plan, finer: tuple[str, ...]) -> onnx.ModelProto:
        table, affines, corrections = self.ranges.amax, self.ranges.affines, self.corrector.correct(plan)
        channels = self._measure_channels()
        return lower_to_integers(self.ranges.view, plan, table, affines, corrections, channels, finer)

    def _measure_channels(self) -> dict[str, ChannelRanges]:
        """Ranges of the channels of all results that can be stored; measured once."""
        if self._channels is None:
            inputs = self.inputs
            results = find_storable_results(inputs.view)
            self._channels = measure_calibration_channels(inputs, results, inputs.level.storing_ranges)
        return self._channels

    def _decide(self, plan: Plan) -> tuple[str, ...]:
        """As few as will do: one after the other, those kept that measurably help."""
        candidates = self.order_candidates(plan)[: self.inputs.level.storing_trials]
        best: tuple[str, ...] = ()
        if not candidates:
            return best
        measure = self._measure(plan)
        self.tried = {(): measure(())}
        for name in candidates:
            if self.tried[best] <= ALLOWED:
                break
            more = (*best, name)
            self.tried[more] = measure(more)
            if self.tried[more] <= self.tried[best] - _WORTHWHILE:
                best = more
        shown = ", ".join(f"{len(names)} {cost:+.3%}" for names, cost in self.tried.items())
        self.inputs.reporter.note(f"results kept in 9 bits instead of 8: {len(best)}; SSIM that storing costs: {shown}")
        return best

    def order_candidates(self, plan: Plan) -> list[str]:
        """The results that can be stored finer, in the order in which they are."""
        view, table, affines = self.ranges.view, self.ranges.amax, self.ranges.affines
        return sort_by_pixels(view, find_nine_bit_candidates(view, plan, table, affines, self._measure_channels()))

    def _measure(self, plan: Plan) -> Callable[[tuple[str, ...]], float]:
        inputs = self.inputs
        evaluator = open_calibration_evaluator(inputs, inputs.level.storing_faces)

        def measure_drop(make: Callable[[], onnx.ModelProto]) -> float:
            with OnnxRuntimeRunner([make()].pop, ours="the lowered int8 graph") as runner:
                return evaluator.ssim_drop(runner, inputs.reporter.progress, "storing results")

        table, affines, corrections = self.ranges.amax, self.ranges.affines, self.corrector.correct(plan)
        floats = measure_drop(lambda: lower(self.ranges.view, plan, table, Precision.FP32, affines, corrections))
        return lambda finer: measure_drop(lambda: self._lower(plan, finer)) - floats


def measure_calibration_channels(inputs: BuildInputs, tensors: Sequence[str], count: int) -> dict[str, ChannelRanges]:
    """The whole range of each channel of ``tensors`` on ``count`` calibration faces; runs inferences."""
    faces = inputs.faces.calibration
    few = faces.subset(spread(len(faces), count))
    batches = Batches(inputs.network.make_feeder(few), len(few), inputs.network.smallest_batch)
    model, progress = inputs.network.prepared.model, inputs.reporter.progress
    return measure_channel_ranges(model, tensors, batches, tail=0, progress=progress)


def sort_by_pixels(view: GraphView, names: Sequence[str]) -> list[str]:
    """``names`` (in graph order), those with the most pixels first, and of these the last ones first."""
    places = {name: place for place, name in enumerate(names)}
    return sorted(names, key=lambda name: (_count_pixels(view, name), places[name]), reverse=True)


def _count_pixels(view: GraphView, name: str) -> int:
    height, width = (view.shape(name) or (0, 0))[-2:]
    return height * width if isinstance(height, int) and isinstance(width, int) else 0
