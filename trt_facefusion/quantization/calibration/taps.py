"""What a pass takes of the activations: all values of small maps; extremes and evenly spread values of large ones.

Copying every map of a large network out of the graph, and counting all of its values, costs more than the inference.
A map's largest magnitude has to be exact; the shape of its distribution is known as well from some of its values.
What is infinite is noticed wherever it is, NaN where it reaches one of these values or an output of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_facefusion.quantization.calibration.histogram import Histogram, choose_thinning
from trt_facefusion.types import Array

_LAST = 2**31 - 1


@dataclass(frozen=True)
class ScaledTensor:
    """A tensor [N,C,...] behind a scale and a shift of its channels: ``values * factors - offsets``, both [C]."""

    name: str
    factors: NDArray[np.float32]
    offsets: NDArray[np.float32]

    def apply(self, values: Array) -> NDArray[np.float32]:
        """``values`` [N,C,...] behind scale and shift."""
        shape = (1, -1, *(1,) * (values.ndim - 2))
        return np.asarray(values * self.factors.reshape(shape) - self.offsets.reshape(shape), np.float32)


@dataclass(frozen=True)
class Tap:
    """One tensor as it is taken out, and the histograms that it counts into: its own, and those of ``scaled``."""

    tensor: str
    outputs: tuple[str, ...]
    """The tensor itself; or of a large map the extremes of its channels, [N,C] each, and some values [N,C,h,w]."""
    every: int = 1
    """How many values each of those stands for."""
    scaled: tuple[ScaledTensor, ...] = ()

    def count(self, values: Sequence[Array], histograms: Mapping[str, Histogram]) -> None:
        """Count ``values``, one array for each of ``outputs``."""
        self._count(values, histograms[self.tensor])
        for scaled in self.scaled:
            self._count([scaled.apply(array) for array in values], histograms[scaled.name])

    def _count(self, values: Sequence[Array], histogram: Histogram) -> None:
        if len(values) == 1:
            histogram.add_sparsely(values[0])
        else:
            highest, lowest, part = values
            histogram.add_part(highest, lowest, part, self.every)


def make_taps(
    model: onnx.ModelProto, tensors: Sequence[str], scaled: Mapping[str, tuple[ScaledTensor, ...]]
) -> tuple[onnx.GraphProto, list[Tap]]:
    """What ``model`` needs on top to take ``tensors`` out: nodes and constants; taps in the order of ``tensors``."""
    shapes = _find_sample_shapes(model)
    added = onnx.GraphProto()
    tensor_taps = []
    for name in tensors:
        shape = shapes.get(name, ())
        steps = choose_thinning(shape) if len(shape) == 3 else ()
        if math.prod(steps) > 1:
            tensor_taps.append(_make_thinned_tap(added, name, steps, scaled.get(name, ())))
        else:
            tensor_taps.append(Tap(name, (name,), scaled=scaled.get(name, ())))
    return added, tensor_taps


def even_step(plane: Sequence[int], pixels: int) -> int:
    """The step, in both directions, that thins a plane [H,W] to about ``pixels``."""
    return max(int((math.prod(plane) / pixels) ** 0.5), 1)


def thin_evenly(model: onnx.ModelProto, tensors: Sequence[str], pixels: int, added: onnx.GraphProto) -> dict[str, str]:
    """Take maps out of ``model`` thinned to about ``pixels``, by nodes that are put into ``added``.

    Gives the output of each tensor: itself where its size is not known or small enough.
    """
    shapes = _find_sample_shapes(model)
    outputs = {}
    for name in tensors:
        shape = shapes.get(name, ())
        step = even_step(shape[1:], pixels) if len(shape) == 3 else 1
        outputs[name] = name if step == 1 else f"{name}__even"
        if step == 1:
            continue
        ends = {"first": (0, 0), "last": (_LAST, _LAST), "plane": (2, 3), "steps": (step, step)}
        for what, values in ends.items():
            added.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{name}__even_{what}"))
        inputs = [name, *(f"{name}__even_{what}" for what in ends)]
        added.node.append(helper.make_node("Slice", inputs, [outputs[name]]))
    return outputs


def _make_thinned_tap(
    graph: onnx.GraphProto, name: str, steps: tuple[int, ...], scaled: tuple[ScaledTensor, ...]
) -> Tap:
    def add_constant(what: str, *values: int) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{name}__{what}"))
        return f"{name}__{what}"

    def add_node(kind: str, inputs: Sequence[str], output: str) -> str:
        new_node = helper.make_node(kind, list(inputs), [f"{name}__{output}"])
        if kind != "Slice":
            new_node.attribute.append(helper.make_attribute("keepdims", 0))
        graph.node.append(new_node)
        return f"{name}__{output}"

    plane = add_constant("plane", 2, 3)
    extremes = [add_node("ReduceMax", [name, plane], "highest"), add_node("ReduceMin", [name, plane], "lowest")]
    bounds = [add_constant("first", *(step // 2 for step in steps[1:])), add_constant("last", _LAST, _LAST)]
    part = add_node("Slice", [name, *bounds, plane, add_constant("steps", *steps[1:])], "part")
    return Tap(name, (*extremes, part), math.prod(steps), scaled)


def _find_sample_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of a sample of every tensor made by a node, where all of its sizes are known."""
    return {name: sizes for name, sizes in _list_sample_sizes(model.graph) if all(size > 0 for size in sizes)}


def _list_sample_sizes(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    for tensor in (*graph.value_info, *graph.output):
        yield tensor.name, tuple(d.dim_value for d in tensor.type.tensor_type.shape.dim)[1:]
