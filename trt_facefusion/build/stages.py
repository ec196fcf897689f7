"""What the stages of one build gave: each runs when its result is first called for, and once.

This is the only place of a build that is lazy: an FP32 engine needs no calibration, an FP16 engine no thresholds, a
plan by rules no search, and what one precision needed the next one takes as it is. The stages themselves take values
and return values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

import onnx

from trt_facefusion.build.compilation import CompiledEngine, CompiledKernels
from trt_facefusion.build.engine_timer import PredictedTimer
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.lowered_plan import LoweredPlan
from trt_facefusion.build.objective import AUTO, MACS, TIME
from trt_facefusion.build.tuning.corrections import LayerCorrector
from trt_facefusion.build.tuning.integer_storage import IntegerStorage
from trt_facefusion.build.tuning.npu_storage import LEVELS, NpuStorage, choose_npu_ranges
from trt_facefusion.build.tuning.observations import Observations
from trt_facefusion.build.tuning.open_search import open_search
from trt_facefusion.build.tuning.plan_search import PlanSearch
from trt_facefusion.build.tuning.ranges import Ranges, calibrate, choose_ranges
from trt_facefusion.build.tuning.search_space import list_candidates, open_candidates
from trt_facefusion.build.tuning.thresholds import Price
from trt_facefusion.build.tuning.timed_plans import TimedPlans
from trt_facefusion.build.tuning.zero_points import ZeroPoints
from trt_facefusion.errors import BuildError, KernelsUnknownError
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.lowering import apply_fusion_rules, lower
from trt_facefusion.quantization.lowering.pads import quantise_before_pads
from trt_facefusion.quantization.lowering.unsigned import quantise_unsigned
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision

Result = TypeVar("Result")

_REPAIR = "open_search_for_repair"


def run_once(stage: Callable[[Stages], Result]) -> Callable[[Stages], Result]:
    """Run a stage when it is first called, and give its result from then on."""

    @wraps(stage)
    def call(self: Stages) -> Result:
        if stage.__name__ not in self.results:
            self.results[stage.__name__] = stage(self)
        return cast(Result, self.results[stage.__name__])

    return call


class Stages:
    """The stages of one build, on its inputs."""

    def __init__(self, inputs: BuildInputs) -> None:
        self.inputs = inputs
        self.results: dict[str, Any] = {}
        self._kernels = CompiledKernels(inputs)
        self._untimed = False

    @property
    def searches(self) -> bool:
        """Whether the plan is searched by measurement; where all is stored in integers, their widths are."""
        settings = self.inputs.settings
        return settings.plan is None and settings.planner == "auto" and not self.inputs.stores_all

    @run_once
    def calibrate(self) -> Observations:
        """Histograms of every tensor."""
        return calibrate(self.inputs)

    @run_once
    def choose_ranges(self) -> Ranges:
        """Thresholds, scale and shift of channels."""
        if self.inputs.stores_all:
            return choose_npu_ranges(self.inputs, self.calibrate(), self._plan_all())
        return choose_ranges(self.inputs, self.calibrate(), self._open_price())

    @run_once
    def open_corrector(self) -> LayerCorrector:
        """Computes the corrections of INT8 layers, when a plan first needs them."""
        if self.inputs.stores_all:
            storage = self.open_npu_storage()
            return LayerCorrector(self.inputs, storage.ranges, storage.lower_wide, LEVELS)
        return LayerCorrector(self.inputs, self.choose_ranges())

    @run_once
    def open_integer_storage(self) -> IntegerStorage:
        """Lowers to integer operators, for a backend that wants them."""
        return IntegerStorage(self.inputs, self.choose_ranges(), self.open_corrector())

    @run_once
    def open_npu_storage(self) -> NpuStorage:
        """Lowers to integers of 16 and 8 bits, for a processor that stores everything in them."""
        return NpuStorage(self.inputs, self.choose_ranges())

    @run_once
    def open_zero_points(self) -> ZeroPoints:
        """Puts zero points in place of shifted channels, for a backend that pads with them."""
        return ZeroPoints(self.inputs, self.choose_ranges().view)

    @run_once
    def plan_by_rules(self) -> Plan:
        """The plan by rules, with what calibration saw."""
        observations = self.calibrate()
        name = self.inputs.settings.source.name
        hints = self.inputs.settings.preset.hints
        return plan_by_rules(self.inputs.view, observations.amax, name, observations.moments, hints)

    @run_once
    def _plan_all(self) -> Plan:
        """The plan with all layers in INT8 that can be: with activations of 16 bits, only weights lose by it."""
        rules = self.plan_by_rules()
        names = list_candidates(rules, self.inputs.view, self.calibrate().amax)
        return rules.assigned(dict.fromkeys(names, (Precision.INT8, "8-bit weights; its activations are integers")))

    def _plan_floats(self) -> Plan:
        """The plan by rules for a processor that has no FP32."""
        rules = self.plan_by_rules()
        reason = f"{self.inputs.job.selection.backend.name} computes no FP32: in FP16"
        return rules.assigned(dict.fromkeys(rules.names(Precision.FP32), (Precision.FP16, reason)))

    @run_once
    def open_search(self) -> PlanSearch:
        """The search among all layers that can be INT8, but for those that would get no INT8 kernel."""
        settings, reporter = self.inputs.settings, self.inputs.reporter
        rules = self.plan_by_rules()
        ranges, transposes = self.choose_ranges().table, self.inputs.capabilities.transposes_in_int8
        widest = open_candidates(rules, list_candidates(rules, self.inputs.view, ranges, transposes=transposes))
        excluded = self._find_without_kernel(widest)
        if excluded:
            reporter.note(f"no candidates for INT8: {'; '.join(f'{n}: {why}' for n, why in excluded.items())}")
        widest = widest.raised(excluded)
        times = self._time_plans(widest)
        slower = {} if times is None else times.find_slower()
        if slower:
            reporter.note(f"no faster in INT8, so they stay FP16: {', '.join(slower)}")
        limit_named = "max_ssim_drop" in settings.limits
        return self._open_search(widest.raised(slower), excluded | slower, limit_named=limit_named, times=times)

    def _time_plans(self, widest: Plan) -> TimedPlans | None:
        """Times of plans that keep some INT8 nodes of ``widest``; None where the search makes least of something else.

        Compiles two engines.
        """
        timer, goal = self._open_timer(), self.inputs.job.goal
        if timer is not None:
            try:
                return TimedPlans(self.inputs, timer, widest)
            except BuildError as error:
                self._give_up_times(error)
        elif self.inputs.settings.objective == AUTO and goal.name != TIME:
            self.inputs.reporter.note(f"plan search by {goal.name}: {goal.reason}")
        return None

    def _open_timer(self) -> PredictedTimer | None:
        goal = self.inputs.job.goal
        if goal.gpu is None or self._untimed:
            return None
        return PredictedTimer(self.inputs, self.lower, self.compile_kernels, goal.gpu, goal.factors)

    def _give_up_times(self, error: BuildError) -> None:
        """Search by MACs from now on, as nobody asked for time by name.

        Raises:
            BuildError: somebody did.
        """
        if self.inputs.settings.objective != AUTO:
            raise error
        self._untimed = True
        self.inputs.reporter.warn(f"the plan is searched by MACs, not by time: {error.message}", Precision.INT8)

    def _open_price(self) -> Price | None:
        """What an engine of a lowered graph takes; None where the search makes least of something else."""
        timer, rules = self._open_timer(), self.plan_by_rules()
        if timer is None or not rules.names(Precision.INT8):
            return None
        fusion = self.inputs.fusion

        def predict(view: GraphView, typed: onnx.ModelProto) -> float | None:
            try:
                return timer.predict(LoweredPlan(rules, apply_fusion_rules(view, typed, fusion))).total_ms
            except KernelsUnknownError as error:
                self._give_up_times(error)
            except BuildError as error:
                self.inputs.reporter.note(f"what channels go through is chosen without its time: {error.message}")
            return None

        return predict

    def open_search_for_repair(self, plan: Plan) -> PlanSearch:
        """The search that made ``plan``; for a plan of another origin, one among the nodes that it has in INT8."""
        if self.searches:
            return self.open_search()
        if _REPAIR not in self.results:
            self.results[_REPAIR] = self._open_search(plan, {}, limit_named=True)
        search: PlanSearch = self.results[_REPAIR]
        return search

    def _open_search(
        self, widest: Plan, excluded: Mapping[str, str], *, limit_named: bool, times: TimedPlans | None = None
    ) -> PlanSearch:
        inputs, corrections = self.inputs, self.open_corrector().correct(widest)
        return open_search(
            *(inputs, self.choose_ranges(), widest, corrections, excluded),
            protected=self.plan_by_rules().names(Precision.FP16),
            limit_named=limit_named,
            objective=MACS if self._untimed else inputs.job.goal.name,
            times=times,
        )

    def _find_without_kernel(self, plan: Plan) -> dict[str, str]:
        """Layers that the backend runs in float, though all of ``plan`` is offered in INT8: name -> reason.

        Asked where an answer takes seconds: TensorRT-RTX compiles without timing kernels. Where it refuses them all
        together, nothing is known of single ones.
        """
        backend = self.inputs.job.selection.backend
        if not backend.capabilities.compiles_in_seconds or not plan.names(Precision.INT8):
            return {}
        try:
            compiled = self.compile_kernels(self.lower(plan))
        except BuildError as error:
            self.inputs.reporter.note(f"which layers get an INT8 kernel is not known: {error.message}")
            return {}
        if not compiled.engine.kernels_known or compiled.coverage.real == 0:
            return {}
        reason = f"{backend.name} {compiled.engine.backend_version} builds no INT8 kernel for it"
        return dict.fromkeys(compiled.coverage.missing, reason)

    def compile_kernels(self, lowered: LoweredPlan) -> CompiledEngine:
        """An engine for what its kernels say, without its bytes; what this build compiled for that it does not again.

        Raises:
            BuildError: the backend refused it.
        """
        return self._kernels.compile(lowered)

    def make_plan(self, precision: Precision) -> Plan:
        """The user's plan, the searched one or that of the rules, with nothing cheaper than ``precision``."""
        inputs = self.inputs
        if inputs.plan is not None:
            plan = inputs.plan
        elif precision is Precision.FP32:
            plan = plan_by_rules(inputs.view, {}, inputs.settings.source.name)
        elif precision is Precision.INT8 and self.searches:
            plan = self.open_search().make_plan()
        elif self.inputs.stores_all and precision is Precision.FP16:
            plan = self._plan_floats()
        elif self.inputs.stores_all and inputs.settings.planner == "auto":
            plan = self._plan_all()
        else:
            plan = self.plan_by_rules()
        return plan.capped(precision)

    def lower(self, plan: Plan, base: Precision = Precision.FP16) -> LoweredPlan:
        """``plan`` as a strongly typed ONNX that the backend fuses; what is in no precision of its own is ``base``."""
        fusion = self.inputs.fusion
        if not plan.names(Precision.INT8):
            view = self.inputs.view
            return LoweredPlan(plan, apply_fusion_rules(view, lower(view, plan, {}, base), fusion))
        ranges, corrections = self.choose_ranges(), self.open_corrector().correct(plan)
        if self.inputs.stores_all:
            typed = self.open_npu_storage().lower(plan, corrections)
        elif self.inputs.integer_results:
            typed = self.open_integer_storage().lower(plan)
        else:
            pairs = self.inputs.pairs
            typed = lower(ranges.view, plan, ranges.amax, base, ranges.affines, corrections, pairs=pairs)
            typed = apply_fusion_rules(ranges.view, typed, fusion)
        if self.inputs.capabilities.pads_with_zero_points:
            typed = quantise_unsigned(self.open_zero_points().apply(typed))
        if self.inputs.capabilities.quantises_before_pads:
            typed = quantise_before_pads(typed)
        return LoweredPlan(plan, typed, ranges, corrections)

    def describe_search(self) -> Mapping[str, Any] | None:
        """What the plan search measured, for `search.json`; None where none was made."""
        search = self.open_search() if self.searches else self.results.get(_REPAIR)
        return None if search is None else search.as_dict()
