"""What a pass takes of the activations: all values of small maps; extremes and some rows of large ones.

Copying every map of a large network out of the graph, and counting all of its values, costs more than the inference.
A map's largest magnitude has to be exact; the shape of its distribution is known as well from evenly spread rows.
What is infinite is noticed wherever it is, NaN where it reaches one of these rows or an output of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_facefusion.calibration.histogram import SPARSE_VALUES, Histogram
from trt_facefusion.types import Array

_LAST = 2**31 - 1


@dataclass(frozen=True)
class Scaled:
    """A tensor [N,C,...] behind a scale and a shift of its channels: ``values * factors - offsets``, both [C]."""

    name: str
    factors: NDArray[np.float32]
    offsets: NDArray[np.float32]

    def apply(self, values: Array, channels: Array) -> NDArray[np.float32]:
        """``values`` [N,K,...], of which row k belongs to channel ``channels[k]``."""
        shape = (1, -1, *(1,) * (values.ndim - 2))
        factors, offsets = self.factors[channels].reshape(shape), self.offsets[channels].reshape(shape)
        return np.asarray(values * factors - offsets, np.float32)


@dataclass(frozen=True)
class Tap:
    """One tensor as it is taken out, and the histograms that it counts into: its own, and that of ``scaled``."""

    tensor: str
    outputs: tuple[str, ...]
    """The tensor itself; or of a large map the extremes of its channels, [N,C] each, and its rows [N,R,W]."""
    rows: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """The channel that each of the rows belongs to."""
    every: int = 1
    """How many rows each of them stands for."""
    scaled: Scaled | None = None

    def count(self, values: Sequence[Array], histograms: Mapping[str, Histogram]) -> None:
        """Count ``values``, one array for each of ``outputs``."""
        own, scaled = histograms[self.tensor], self.scaled
        if len(values) == 1:
            own.add_sparsely(values[0])
            if scaled is not None:
                channels = np.arange(values[0].shape[1])
                histograms[scaled.name].add_sparsely(scaled.apply(values[0], channels))
            return
        highest, lowest, rows = values
        own.add_part(highest, lowest, rows, self.every)
        if scaled is not None:
            channels = np.arange(highest.shape[1])
            high, low = (scaled.apply(bound, channels) for bound in (highest, lowest))
            histograms[scaled.name].add_part(high, low, scaled.apply(rows, self.rows), self.every)


def taps(
    model: onnx.ModelProto, tensors: Sequence[str], scaled: Mapping[str, Scaled]
) -> tuple[onnx.ModelProto, list[Tap]]:
    """``model`` with what is needed to take ``tensors`` out; the taps are in the order of ``tensors``."""
    shapes = _shapes(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    made = []
    for name in tensors:
        shape = shapes.get(name, ())
        every = math.prod(shape) // SPARSE_VALUES if len(shape) == 3 else 1
        if every > 1:
            made.append(_thinned(result.graph, name, shape, every, scaled.get(name)))
        else:
            made.append(Tap(name, (name,), scaled=scaled.get(name)))
    return result, made


def _thinned(graph: onnx.GraphProto, name: str, shape: tuple[int, ...], every: int, scaled: Scaled | None) -> Tap:
    channels, height, width = shape

    def constant(what: str, *values: int) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{name}__{what}"))
        return f"{name}__{what}"

    def node(kind: str, inputs: Sequence[str], output: str) -> str:
        made = helper.make_node(kind, list(inputs), [f"{name}__{output}"])
        if kind.startswith("Reduce"):
            made.attribute.append(helper.make_attribute("keepdims", 0))
        graph.node.append(made)
        return f"{name}__{output}"

    plane, first = constant("plane", 2, 3), every // 2  # not row 0: that would favour the edge of every plane
    highest = node("ReduceMax", [name, plane], "highest")
    lowest = node("ReduceMin", [name, plane], "lowest")
    flat = node("Reshape", [name, constant("flat", 0, channels * height, width)], "flattened")
    bounds = [constant("first", first), constant("last", _LAST), constant("axis", 1), constant("every", every)]
    rows = node("Slice", [flat, *bounds], "rows")
    owners = np.arange(first, channels * height, every) // height
    return Tap(name, (highest, lowest, rows), owners, every, scaled)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of a sample of every tensor made by a node, where all of its sizes are known."""
    return {name: sizes for name, sizes in _known(model.graph) if all(size > 0 for size in sizes)}


def _known(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    for value in (*graph.value_info, *graph.output):
        yield value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
