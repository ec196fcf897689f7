"""Range analysis for FP16: what calibration saw, and what it could not see because it stays inside of a node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from trt_facefusion.model.graph import GraphView, read_attribute
from trt_facefusion.quantization.calibration.histogram import BINS, Histogram

FP16_MAX = 65504.0
FP16_TINY = 6.1e-5
"""Smallest normal FP16 number: below it digits are lost, below 6e-8 everything is 0."""
RANGE_MARGIN = 4.0
"""A value that comes within this factor of FP16's limit on the calibration faces may pass it on others."""

_SQUARES_PER_PLANE = frozenset({"InstanceNormalization", "MeanVarianceNormalization"})
_SQUARES_OF_REDUCTION = frozenset({"ReduceL2", "ReduceSumSquare"})
_SUMS = frozenset({"ReduceMean", "GlobalAveragePool"})


@dataclass(frozen=True)
class TensorMoments:
    """What calibration saw of a tensor: its mean magnitude and its mean square."""

    mean: float
    square: float

    @classmethod
    def of(cls, histogram: Histogram) -> TensorMoments:
        """Means from the histogram, exact to half a bin."""
        share = histogram.counts / max(histogram.count, 1)
        centres = (np.arange(BINS) + 0.5) * histogram.bin_width
        return cls(float(share @ centres), float(share @ centres**2))


def find_hidden_peak(
    view: GraphView, node: onnx.NodeProto, moments: Mapping[str, TensorMoments]
) -> tuple[float, str] | None:
    """The largest value that FP16 would have to hold inside of ``node``, and what it is; None where none is known of.

    Normalisations and reductions sum up before they divide or take a root. The sum is estimated as number times mean,
    which calibration knows exactly over all faces and channels; single channels exceed it, hence ``RANGE_MARGIN``.
    """
    tensor = node.input[0] if node.input else ""
    values = moments.get(tensor)
    count = _count_summed(view, node)
    if values is None or not count:
        return None
    if node.op_type in _SUMS:
        return count * values.mean, f"its sum over {count:,} values"
    return count * values.square, f"its sum of {count:,} squares"


def _count_summed(view: GraphView, node: onnx.NodeProto) -> int:
    """How many values of its first input ``node`` sums up at a time; 0 for operators that sum nothing."""
    shape = view.shape(node.input[0]) if node.input else None
    if shape is None:
        return 0
    if node.op_type in _SQUARES_PER_PLANE or node.op_type == "GlobalAveragePool":
        return _multiply_sizes(shape[2:])
    if node.op_type == "GroupNormalization":
        groups = read_attribute(node, "num_groups", 1)
        return _multiply_sizes(shape[1:]) // (groups if isinstance(groups, int) else 1)
    if node.op_type in {"LayerNormalization", "RMSNormalization", "LpNormalization"}:
        axis = read_attribute(node, "axis", -1)
        start = axis if isinstance(axis, int) else -1
        return _multiply_sizes(shape[start:] if node.op_type != "LpNormalization" else shape[start : start + 1 or None])
    if node.op_type in _SQUARES_OF_REDUCTION | _SUMS:
        return _count_reduced(view, node, shape)
    return 0


def _count_reduced(view: GraphView, node: onnx.NodeProto, shape: tuple[int | str, ...]) -> int:
    axes = read_attribute(node, "axes")
    if len(node.input) > 1 and node.input[1] and view.is_constant(node.input[1]):
        axes = view.constant(node.input[1]).reshape(-1).tolist()
    if not isinstance(axes, (list, tuple)) or not axes:
        return _multiply_sizes(shape[1:])
    return _multiply_sizes(tuple(shape[axis] for axis in axes if -len(shape) <= axis < len(shape)))


def _multiply_sizes(sizes: tuple[int | str, ...]) -> int:
    return math.prod(size for size in sizes if isinstance(size, int)) if sizes else 0
