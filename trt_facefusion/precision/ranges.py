"""Range analysis for FP16: what calibration saw, and what it could not see because it stays inside of a node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from trt_facefusion.graph import GraphView, attribute

FP16_MAX = 65504.0
RANGE_MARGIN = 4.0
"""A value that comes within this factor of FP16's limit on the calibration faces may pass it on others."""

_SQUARES_PER_PLANE = frozenset({"InstanceNormalization", "MeanVarianceNormalization"})
_SQUARES_OF_REDUCTION = frozenset({"ReduceL2", "ReduceSumSquare"})
_SUMS = frozenset({"ReduceMean", "GlobalAveragePool"})


@dataclass(frozen=True)
class Seen:
    """What calibration saw of a tensor: its largest magnitude, mean magnitude and mean square."""

    amax: float
    mean: float
    square: float


def hidden_peak(view: GraphView, node: onnx.NodeProto, seen: Mapping[str, Seen]) -> tuple[float, str] | None:
    """The largest value that FP16 would have to hold inside of ``node``, and what it is; None where none is known of.

    Normalisations and reductions sum up before they divide or take a root. The sum is estimated as number times mean,
    which calibration knows exactly over all faces and channels; single channels exceed it, hence ``RANGE_MARGIN``.
    """
    tensor = node.input[0] if node.input else ""
    values = seen.get(tensor)
    count = summed(view, node)
    if values is None or not count:
        return None
    if node.op_type in _SUMS:
        return count * values.mean, f"its sum over {count:,} values"
    return count * values.square, f"its sum of {count:,} squares"


def summed(view: GraphView, node: onnx.NodeProto) -> int:
    """How many values of its first input ``node`` sums up at a time; 0 for operators that sum nothing."""
    shape = view.shape(node.input[0]) if node.input else None
    if shape is None:
        return 0
    if node.op_type in _SQUARES_PER_PLANE or node.op_type == "GlobalAveragePool":
        return _product(shape[2:])
    if node.op_type == "GroupNormalization":
        groups = attribute(node, "num_groups", 1)
        return _product(shape[1:]) // (groups if isinstance(groups, int) else 1)
    if node.op_type in {"LayerNormalization", "RMSNormalization", "LpNormalization"}:
        axis = attribute(node, "axis", -1)
        start = axis if isinstance(axis, int) else -1
        return _product(shape[start:] if node.op_type != "LpNormalization" else shape[start : start + 1 or None])
    if node.op_type in _SQUARES_OF_REDUCTION | _SUMS:
        return _reduced(view, node, shape)
    return 0


def bounds(view: GraphView, seen: Mapping[str, float]) -> dict[str, float]:
    """The largest magnitude of every tensor: as seen, or for what was not seen a bound from what it is computed of."""
    found = dict(seen)
    for node in view.model.graph.node:
        for name in node.output:
            if name and name not in found and view.is_float(name):
                bound = _bound(view, node, found)
                if bound is not None:
                    found[name] = bound
    return {name: value for name, value in found.items() if name not in seen}


def _bound(view: GraphView, node: onnx.NodeProto, known: Mapping[str, float]) -> float | None:
    inputs = [_magnitude(view, name, known) for name in node.input if name and view.is_float(name)]
    if not inputs or any(value is None for value in inputs):
        return None
    sizes = [value for value in inputs if value is not None]
    if node.op_type in {"Add", "Sub", "Sum"}:
        return sum(sizes)
    if node.op_type == "Mul":
        return math.prod(sizes)
    if node.op_type == "MatMul":
        inner = (view.shape(node.input[0]) or (0,))[-1]
        return math.prod(sizes) * inner if isinstance(inner, int) and inner else None
    if node.op_type == "ReduceSum":
        count = _reduced(view, node, view.shape(node.input[0]) or ())
        return sizes[0] * count if count else None
    return None


def _magnitude(view: GraphView, name: str, known: Mapping[str, float]) -> float | None:
    if view.is_constant(name):
        return float(np.abs(view.constant(name)).max(initial=0.0))
    return known.get(name)


def _reduced(view: GraphView, node: onnx.NodeProto, shape: tuple[int | str, ...]) -> int:
    axes = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1] and view.is_constant(node.input[1]):
        axes = view.constant(node.input[1]).reshape(-1).tolist()
    if not isinstance(axes, (list, tuple)) or not axes:
        return _product(shape[1:])
    return _product(tuple(shape[axis] for axis in axes if -len(shape) <= axis < len(shape)))


def _product(sizes: tuple[int | str, ...]) -> int:
    return math.prod(size for size in sizes if isinstance(size, int)) if sizes else 0
