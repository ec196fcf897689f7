"""Integer operators for a CPU: which results have to be kept finer than in 8 bits, measured on calibration faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import calibration_evaluator
from trt_facefusion.build.tuning.corrections import Correcting
from trt_facefusion.build.tuning.ranges import Ranges, seen_channels
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.channels import ChannelRanges
from trt_facefusion.quantization.lowering import (
    find_nine_bit_candidates,
    find_storable_results,
    lower,
    lower_to_integers,
)
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision

ALLOWED = 8e-4
"""SSIM that storing results may cost on top of what the plan costs a GPU."""
_WORTHWHILE = ALLOWED / 10
"""What a second operator has to win: it takes as long as the first."""


@dataclass
class Storing:
    """Lowers one model's plans to integer operators; what is stored finer is decided by the first plan."""

    inputs: BuildInputs
    ranges: Ranges
    correcting: Correcting
    tried: dict[tuple[str, ...], float] = field(default_factory=dict)
    """What was measured: results kept finer -> SSIM that storing costs."""
    _finer: tuple[str, ...] | None = None

    def lowered(self, plan: Plan) -> onnx.ModelProto:
        """The engine of ``plan``."""
        if self._finer is None:
            self._finer = self._decide(plan)
        return self._lowered(plan, self._finer)

    @property
    def record(self) -> dict[str, object]:
        """For the manifest: the results that are kept finer, and what storing costs with all that was tried."""
        if self._finer is None:
            return {}
        tried = [{"finer": list(names), "ssim": cost} for names, cost in self.tried.items()]
        return {"stored_finer": list(self._finer), "stored_ssim_cost": tried}

    def _lowered(self, plan: Plan, finer: tuple[str, ...]) -> onnx.ModelProto:
        table, affines, corrections = self.ranges.table, self.ranges.affines, self.correcting.of(plan)
        return lower_to_integers(self.inputs.view, plan, table, affines, corrections, self._channels, finer)

    @cached_property
    def _channels(self) -> dict[str, ChannelRanges]:
        return seen_channels(
            self.inputs, find_storable_results(self.inputs.view), self.inputs.level.storing_ranges, tail=0
        )

    def _decide(self, plan: Plan) -> tuple[str, ...]:
        """As few as will do: one after the other, those kept that measurably help."""
        candidates = self.order(plan)[: self.inputs.level.storing_trials]
        best: tuple[str, ...] = ()
        if not candidates:
            return best
        lost = self._measure(plan)
        self.tried = {(): lost(())}
        for name in candidates:
            if self.tried[best] <= ALLOWED:
                break
            more = (*best, name)
            self.tried[more] = lost(more)
            if self.tried[more] <= self.tried[best] - _WORTHWHILE:
                best = more
        shown = ", ".join(f"{len(names)} {cost:+.3%}" for names, cost in self.tried.items())
        self.inputs.reporter.note(f"results kept in 9 bits instead of 8: {len(best)}; SSIM that storing costs: {shown}")
        return best

    def order(self, plan: Plan) -> list[str]:
        """The results that can be stored finer, in the order in which they are."""
        view = self.inputs.view
        return by_pixels(
            view, find_nine_bit_candidates(view, plan, self.ranges.table, self.ranges.affines, self._channels)
        )

    def _measure(self, plan: Plan) -> Callable[[tuple[str, ...]], float]:
        inputs = self.inputs
        evaluator = calibration_evaluator(inputs, inputs.level.storing_faces)

        def drop(make: Callable[[], onnx.ModelProto]) -> float:
            with OnnxRuntimeRunner([make()].pop, ours="the lowered int8 graph") as runner:
                return evaluator.ssim_drop(runner, inputs.reporter.progress, "storing results")

        table, affines, corrections = self.ranges.table, self.ranges.affines, self.correcting.of(plan)
        floats = drop(lambda: lower(inputs.view, plan, table, Precision.FP32, affines, corrections))
        return lambda finer: drop(lambda: self._lowered(plan, finer)) - floats


def by_pixels(view: GraphView, names: Sequence[str]) -> list[str]:
    """``names`` (in graph order), those with the most pixels first, and of these the last ones first."""
    places = {name: place for place, name in enumerate(names)}
    return sorted(names, key=lambda name: (_pixels(view, name), places[name]), reverse=True)


def _pixels(view: GraphView, name: str) -> int:
    height, width = (view.shape(name) or (0, 0))[-2:]
    return height * width if isinstance(height, int) and isinstance(width, int) else 0
