"""What the plan search decides on: layers that may be INT8, in groups that move together, and how noisy each is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.objective import SIZE
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.noise import compute_sqnr_db
from trt_facefusion.quantization.correction.grid import find_output_axis, quantise_weight
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.quantization.precision.facts import no_kernel
from trt_facefusion.quantization.precision.groups import Group, group_candidates, merge_quiet
from trt_facefusion.quantization.precision.objectives import MacsObjective, Objective, SizeObjective
from trt_facefusion.quantization.precision.search import Effort
from trt_facefusion.types import Precision

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


@dataclass(frozen=True)
class SearchSpace:
    """Plans that keep some INT8 nodes of ``widest`` and raise the others to FP16.

    ``groups`` are what is decided on, in graph order; ``noise`` the quantisation noise of each, weighed by MACs;
    ``effort`` says on how many faces how many plans may be measured; ``other_weights`` are elements that are in no
    group.
    """

    widest: Plan
    groups: tuple[Group, ...]
    noise: tuple[float, ...]
    effort: Effort
    other_weights: int = 0

    @property
    def total_macs(self) -> int:
        """Of all nodes, for one face."""
        return sum(node.macs for node in self.widest.nodes)

    @property
    def sizes(self) -> SizeObjective:
        """Bytes of the weights; those of what is in no group have two each."""
        return SizeObjective(self.groups, 2 * self.other_weights)


def list_candidates(plan: Plan, view: GraphView, ranges: Mapping[str, float], *, transposes: bool = False) -> list[str]:
    """Layers that the search decides on: the rules' role protections are priors, their numerical ones stay.

    ``transposes``: the backend has INT8 kernels for transposed convolutions.
    """
    return [
        node.name
        for node in plan.nodes
        if node.quantisable
        and node.precision is not Precision.FP32
        and view.nodes[node.name].input[0] in ranges
        and no_kernel(view, node.name, transposes=transposes) is None
    ]


def open_candidates(plan: Plan, names: Sequence[str]) -> Plan:
    """``plan`` with all of ``names`` in INT8."""
    return plan.assigned(dict.fromkeys(names, (Precision.INT8, "candidate of the plan search")))


def group_layers(
    inputs: BuildInputs, ranges: Ranges, widest: Plan, protected: Collection[str] = (), *, operands: bool = True
) -> SearchSpace:
    """Group the INT8 nodes of ``widest``, as many groups as the level of effort allows; the quiet ones are merged.

    Layers that are ``protected`` by rules are not merged with others: an output head has few MACs, so that it passes
    for quiet, and would take all others with it. ``operands``: those whose results meet in one node are decided on
    together.
    """
    candidates = group_candidates(inputs.view, widest.names(Precision.INT8), operands=operands)
    macs_of = {node.name: node.macs for node in widest.nodes}
    faces = len(inputs.faces.calibration)
    effort = inputs.level.limit_search(len(candidates), sum(macs_of.values()), faces, inputs.settings.search_faces)
    names = [name for group in candidates for name in group.nodes]
    by_node = {name: _measure_noise(ranges, name) for name in dict.fromkeys(names)}

    def weigh(group: Group) -> float:
        total = 0.0
        for name in group.nodes:
            total += by_node[name] * max(macs_of[name], 1)
        return total

    apart = {index for index, group in enumerate(candidates) if not set(protected).isdisjoint(group.nodes)}
    groups = merge_quiet(candidates, [weigh(group) for group in candidates], effort.groups, apart)
    others = _count_weights(inputs.view) - sum(group.weights for group in groups)
    return SearchSpace(widest, groups, tuple(weigh(group) for group in groups), effort, others)


def make_objective(space: SearchSpace, name: str) -> Objective:
    """What a search in ``space`` makes least of, by its name."""
    return space.sizes if name == SIZE else MacsObjective(space.groups, space.total_macs)


def _count_weights(view: GraphView) -> int:
    """Elements of all constants in floats."""
    return sum(math.prod(tensor.dims) for tensor in view.model.graph.initializer if tensor.data_type in _FLOATS)


def _measure_noise(ranges: Ranges, name: str) -> float:
    """Quantisation noise of a layer's weights and of what it reads: the power of noise over that of the signal."""
    view = ranges.view
    tensor = view.nodes[name].input[0]
    ranged = ranges.name_range(tensor)
    histogram = ranges.histograms.get(ranged)
    noise = _measure_weight_noise(view, name)
    if histogram is not None:
        noise += float(10 ** (-compute_sqnr_db(histogram, ranges.table[ranged]) / 10))
    return noise


def _measure_weight_noise(view: GraphView, name: str) -> float:
    """Power of a layer's weight quantisation noise over that of its weights."""
    node = view.nodes[name]
    weight = view.constant(node.input[1]).astype(np.float32)
    axis = find_output_axis(node)
    quantised, scale = quantise_weight(weight, axis, 1)
    shape = [1] * weight.ndim
    shape[axis] = -1
    error = quantised * scale.reshape(shape)
    np.subtract(weight, error, out=error)  # in place: weights may be large
    wrong = np.square(error, out=error).sum()
    return float(wrong / max(np.square(weight, out=error).sum(), 1e-30))
