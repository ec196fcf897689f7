"""A processor that stores everything in integers: on which grids, and what is stored in 8 bits in place of 16.

Accuracy comes first: everything is stored in 16 bits, where grids cost nothing that shows. Then layers are brought down
to 8 bits where the pictures of calibration faces lose next to nothing by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import open_calibration_evaluator
from trt_facefusion.build.tuning.channels import Channels, make_channels
from trt_facefusion.build.tuning.observations import Observations, add_aliases
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.channels import sample_channels
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.calibration.threshold_choice import ChannelForm
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.lowering.npu import NARROW, WIDE, Bounds, list_stored_tensors, lower_for_npu
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision

LEVELS = (1 << (WIDE - 1)) - 1
"""Steps of a grid of 16 bits either way from zero."""
RULE = "max"
"""Of 16 bits none are won by clipping."""
_MARGIN = 1.5
"""What a grid of 16 bits holds beyond what was seen: it costs half a bit, and no face clips."""
_TAIL = 1e-5
"""Share of a tensor's values that a grid of 8 bits clips at either end."""
NOTHING = 5e-4
"""Mean SSIM that 8 bits may cost in all, where no limit is named."""
_OF_LIMIT = 0.8
"""Share of a limit that is named which they may use up: faces differ."""
_FACES = 8
_SMALL = 0.005
"""Groups of less than this share of the MACs stay in 16 bits: nothing is won with them."""
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip"})


@dataclass(frozen=True)
class NarrowGroup:
    """A layer and the rectifier that alone reads it: they are stored in one width. ``macs`` are those of one face."""

    nodes: tuple[str, ...]
    macs: int


def choose_npu_ranges(inputs: BuildInputs, observations: Observations, plan: Plan) -> Ranges:
    """The ranges that calibration saw, with scales of channels folded where the pictures of 8 bits gain by it."""
    calibration = observations.calibration
    if calibration is None:
        assert observations.named is not None
        return Ranges(
            observations, observations.named, Channels(inputs.view), {"rule": f"from {inputs.settings.table}"}
        )
    plain = Channels(inputs.view)
    folded = _fold_only(make_channels(inputs.view, calibration, ChannelForm(folded=True, shifted=False)))
    forms = {"as they are": plain} | ({"folded": folded} if folded.folded else {})
    table = add_aliases(calibration.with_rule(RULE).table, observations.aliases)
    evaluator = open_calibration_evaluator(inputs, min(inputs.level.validation_faces, _FACES))
    tried = {}
    for name, channels in forms.items() if len(forms) > 1 else ():
        storage = NpuStorage(inputs, Ranges(observations, table, channels, {}, calibration))
        tried[name] = storage.measure(evaluator, storage.lower_all_narrow(plan))
    best = min(tried, key=lambda name: tried[name]) if tried else "as they are"
    if tried:
        shown = ", ".join(f"{name} {drop:.3%}" for name, drop in tried.items())
        inputs.reporter.note(f"scales of channels: {best}; SSIM drop with all in 8 bits: {shown}")
    channels = forms[best]
    record = {"rule": RULE, "equalised": bool(channels.folded), "folded": len(channels.folded), "shifted": 0}
    return Ranges(observations, table, channels, record | {"all_narrow_ssim_drop": tried}, calibration)


def _fold_only(channels: Channels) -> Channels:
    """``channels`` without what could not be folded: no node stands in front of a quantiser here."""
    names = {tensor: name for tensor, name in channels.range_names.items() if tensor in channels.folded}
    return replace(channels, affines={}, range_names=names)


@dataclass
class NpuStorage:
    """Lowers one model's plans; which layers are stored in 8 bits is decided by the first plan.

    ``tried`` is what was measured: how many groups are narrow -> mean SSIM drop on calibration faces.
    """

    inputs: BuildInputs
    ranges: Ranges
    tried: dict[int, float] = field(default_factory=dict)
    _narrow: tuple[NarrowGroup, ...] | None = None
    _total_macs: int = 1

    def lower(self, plan: Plan, corrections: Corrections) -> onnx.ModelProto:
        """``plan`` in 16 bits, and in 8 where that was found to cost next to nothing; runs inferences once."""
        if self._narrow is None:
            self._narrow = self._decide(plan, corrections)
        return self._lower(plan, corrections, self._narrow)

    def lower_wide(self, plan: Plan, corrections: Corrections) -> onnx.ModelProto:
        """``plan`` with everything stored in 16 bits."""
        return self._lower(plan, corrections, ())

    def lower_all_narrow(self, plan: Plan) -> onnx.ModelProto:
        """``plan`` with all that may be stored in 8 bits stored so."""
        return self._lower(plan, {}, find_narrow_groups(self.ranges.view, plan))

    def measure(self, evaluator: PictureEvaluator, model: onnx.ModelProto) -> float:
        """Mean SSIM drop of a lowered graph."""
        with OnnxRuntimeRunner([model].pop, stand_in=True, ours="the lowered int8 graph") as runner:
            return evaluator.ssim_drop(runner)

    def describe(self) -> dict[str, object]:
        """For the manifest: what is stored in 8 bits, its share of the MACs, and what was measured."""
        if self._narrow is None:
            return {}
        nodes = [name for group in self._narrow for name in group.nodes]
        share = sum(group.macs for group in self._narrow) / self._total_macs
        tried = {f"{count} groups": drop for count, drop in self.tried.items()}
        return {"stored_in_8_bits": nodes, "macs_share_8_bits": share, "storage_ssim_drop": tried}

    def _lower(self, plan: Plan, corrections: Corrections, narrow: Sequence[NarrowGroup]) -> onnx.ModelProto:
        int8 = set(plan.names(Precision.INT8))
        names = {name for group in narrow if group.nodes[0] in int8 for name in group.nodes}
        return lower_for_npu(self.ranges.view, plan, self._bounds, names, corrections)

    @cached_property
    def _bounds(self) -> Mapping[int, Bounds]:
        """What grids of either width hold of every tensor, measured on calibration faces."""
        inputs, view = self.inputs, self.ranges.view
        faces = inputs.faces.calibration
        few = faces.subset(spread(len(faces), inputs.level.look_faces))
        batches = Batches(inputs.network.make_feeder(few), len(few), inputs.network.smallest_batch)
        names = [name for name in list_stored_tensors(view) if name not in view.masked]
        maps = [name for name in names if len(view.shape(name) or ()) == 4]
        histograms, channels = sample_channels(view.model, names, maps, batches, progress=inputs.reporter.progress)
        wide = {name: (-_MARGIN * h.amax, _MARGIN * h.amax) for name, h in histograms.items()}
        narrow = {name: (-h.amax, h.amax) for name, h in histograms.items()}
        for name, counted in channels.items():
            ones = np.ones(len(counted.counts), np.float32)
            low, high = counted.measure_tails(ones, 0.0)
            # Few pixels of a large map are counted; its one extreme pixel, such as a transposed convolution makes at a
            # border, is in the histogram's largest magnitude alone.
            grown = _MARGIN * max(histograms[name].amax / max(-low, high, 1e-30), 1.0)
            wide[name] = (grown * low, grown * high)
            narrow[name] = counted.measure_tails(ones, _TAIL)
        return {WIDE: wide, NARROW: narrow}

    def _decide(self, plan: Plan, corrections: Corrections) -> tuple[NarrowGroup, ...]:
        """As many groups as the budget allows, those first that lose least for their MACs, each measured alone."""
        self._total_macs = sum(node.macs for node in plan.nodes) or 1
        groups = find_narrow_groups(self.ranges.view, plan)
        if not groups:
            return ()
        evaluator = open_calibration_evaluator(self.inputs, min(self.inputs.level.search_faces, _FACES))
        progress, trials = self.inputs.reporter.progress, itertools.count()
        total = len(groups) + len(groups).bit_length() + 1

        def measure(narrow: Sequence[NarrowGroup]) -> float:
            progress("8 or 16 bits", next(trials), total)
            return self.measure(evaluator, self._lower(plan, corrections, narrow))

        self.tried = {0: measure(())}
        alone = {group: measure([group]) - self.tried[0] for group in groups}
        order = sorted(groups, key=lambda group: max(alone[group], 0.0) / group.macs)
        budget = self._choose_budget(self.tried[0])
        kept = self._bisect(order, budget, measure)
        self._tell(order[:kept], len(order), budget)
        return tuple(order[:kept])

    def _bisect(
        self, order: Sequence[NarrowGroup], budget: float, measure: Callable[[Sequence[NarrowGroup]], float]
    ) -> int:
        """How many of ``order`` lose at most ``budget``; what more of them lose rises, but for noise. All first."""
        kept, beyond, middle = 0, len(order) + 1, len(order)
        while beyond - kept > 1:
            self.tried[middle] = measure(order[:middle])
            kept, beyond = (middle, beyond) if self.tried[middle] <= budget else (kept, middle)
            middle = (kept + beyond) // 2
        return kept

    def _choose_budget(self, wide: float) -> float:
        limit = self.inputs.settings.limits.get("max_ssim_drop")
        return wide + NOTHING if limit is None else max(_OF_LIMIT * limit, wide)

    def _tell(self, kept: Sequence[NarrowGroup], groups: int, budget: float) -> None:
        share = sum(group.macs for group in kept) / self._total_macs
        shown = ", ".join(f"{count} {drop:.3%}" for count, drop in sorted(self.tried.items()))
        self.inputs.reporter.note(
            f"stored in 8 bits: {len(kept)} of {groups} groups, {share:.0%} of the MACs, the rest in 16; "
            f"SSIM drop by groups, at most {budget:.3%}: {shown}"
        )


def find_narrow_groups(view: GraphView, plan: Plan) -> tuple[NarrowGroup, ...]:
    """The INT8 layers that are worth storing in 8 bits, each with the rectifier behind it, in graph order."""
    total = sum(node.macs for node in plan.nodes)
    groups = []
    for planned in plan.nodes:
        if planned.precision is not Precision.INT8 or planned.macs < _SMALL * total:
            continue
        node = view.nodes[planned.name]
        readers = view.consumers[node.output[0]]
        alone = len(readers) == 1 and readers[0].op_type in _ACTIVATIONS and node.output[0] not in view.output_names
        groups.append(NarrowGroup((node.name, *([readers[0].name] if alone else [])), planned.macs))
    return tuple(groups)
