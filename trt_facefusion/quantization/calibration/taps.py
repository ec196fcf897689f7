"""What a pass takes of the activations: all values of small maps; extremes and evenly spread values of large ones.

Copying every map of a large network out of the graph, and counting all of its values, costs more than the inference.
A map's largest magnitude has to be exact; the shape of its distribution is known as well from some of its values.
What is infinite is noticed wherever it is, NaN where it reaches one of these values or an output of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_facefusion.quantization.calibration.histogram import SPARSE_VALUES, Histogram, choose_thinning
from trt_facefusion.types import Array, Feeds

_LAST = 2**31 - 1
_THINNING_OPSET = 18  # the first in which axes are an input of all reductions


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
    """The tensor itself; or of a large one its extremes ([N,C] each of a map, else [N]), and some values."""
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
    model: onnx.ModelProto,
    tensors: Sequence[str],
    scaled: Mapping[str, tuple[ScaledTensor, ...]],
    measured: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[onnx.GraphProto, list[Tap]]:
    """What ``model`` needs on top to take ``tensors`` out: nodes and constants; taps in the order of ``tensors``.

    ``measured`` are the shapes, for one face, of tensors of which the model does not say how large they are
    (`list_unsized`).
    """
    shapes = _find_face_shapes(model) | dict(measured or {}) if _can_thin(model) else {}
    added = onnx.GraphProto()
    tensor_taps = []
    for name in tensors:
        shape, behind = shapes.get(name, ()), scaled.get(name, ())
        steps = _choose_steps(shape)
        # Channels are scaled along axis 1, which only the extremes of a map keep.
        if math.prod(steps) > 1 and (len(shape) == 4 or not behind):
            tensor_taps.append(_make_thinned_tap(added, name, steps, behind))
        else:
            tensor_taps.append(Tap(name, (name,), scaled=behind))
    return added, tensor_taps


def list_unsized(model: onnx.ModelProto, tensors: Sequence[str]) -> list[str]:
    """Those of ``tensors`` of which ``model`` does not say how large they are for one face.

    Attention in windows is such a case: windows and faces stand on one axis, and one face's tensors may take gigabytes.
    """
    shapes = _find_face_shapes(model)
    return [name for name in tensors if name not in shapes] if _can_thin(model) else []


def count_faces(model: onnx.ModelProto, feeds: Feeds) -> int:
    """How many faces are fed: the size of the axis that ``model`` names after its batch."""
    batch = _name_batch(model)
    sizes = (feeds[tensor.name].shape[0] for tensor in model.graph.input if batch and _name_axis(tensor) == batch)
    return next(sizes, 1)


def _can_thin(model: onnx.ModelProto) -> bool:
    """Whether its opset is that of the nodes which thin, as in every prepared model."""
    return any(entry.domain in {"", "ai.onnx"} and entry.version >= _THINNING_OPSET for entry in model.opset_import)


def _choose_steps(shape: Sequence[int]) -> tuple[int, ...]:
    """The step along each axis of a tensor that has ``shape`` for one face.

    Its first axis counts faces, perhaps times something, say windows. The others are thinned first. Along the first, a
    step divides what belongs to one face: so batches change nothing.
    """
    if len(shape) < 2:
        return (1,) * len(shape)
    every = math.prod(shape) // SPARSE_VALUES
    inner = choose_thinning(shape[1:], every)
    left = max(every // math.prod(inner), 1)
    return (max(step for step in range(1, min(left, shape[0]) + 1) if shape[0] % step == 0), *inner)


def even_step(plane: Sequence[int], pixels: int) -> int:
    """The step, in both directions, that thins a plane [H,W] to about ``pixels``."""
    return max(int((math.prod(plane) / pixels) ** 0.5), 1)


def thin_evenly(model: onnx.ModelProto, tensors: Sequence[str], pixels: int, added: onnx.GraphProto) -> dict[str, str]:
    """Take maps out of ``model`` thinned to about ``pixels``, by nodes that are put into ``added``.

    Gives the output of each tensor: itself where its size is not known or small enough.
    """
    shapes = _find_face_shapes(model)
    outputs = {}
    for name in tensors:
        shape = shapes.get(name, ())
        step = even_step(shape[2:], pixels) if len(shape) == 4 else 1
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

    reduced = add_constant("reduced", *((2, 3) if len(steps) == 4 else range(1, len(steps))))
    extremes = [add_node("ReduceMax", [name, reduced], "highest"), add_node("ReduceMin", [name, reduced], "lowest")]
    axes = [axis for axis, step in enumerate(steps) if step > 1]
    bounds = [add_constant("first", *(steps[axis] // 2 for axis in axes)), add_constant("last", *(_LAST for _ in axes))]
    along = [add_constant("axes", *axes), add_constant("steps", *(steps[axis] for axis in axes))]
    part = add_node("Slice", [name, *bounds, *along], "part")
    return Tap(name, (*extremes, part), math.prod(steps), scaled)


def _find_face_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape for one face of every tensor of which ``model`` says it: the first axis is that of the faces alone."""
    batch = _name_batch(model)
    shapes = {}
    for tensor in (*model.graph.value_info, *model.graph.output):
        sizes = tuple(axis.dim_value for axis in tensor.type.tensor_type.shape.dim)
        if _name_axis(tensor) == batch != "":
            sizes = (1, *sizes[1:])
        if all(size > 0 for size in sizes):
            shapes[tensor.name] = sizes
    return shapes


def _name_batch(model: onnx.ModelProto) -> str:
    """The name that the inputs have in common for their first axis; "" where there is none."""
    names = {_name_axis(tensor) for tensor in model.graph.input} - {""}
    return next(iter(names)) if len(names) == 1 else ""


def _name_axis(tensor: onnx.ValueInfoProto) -> str:
    """The name of the first axis, or "" where it has a size, or there is none."""
    axes = tensor.type.tensor_type.shape.dim
    return axes[0].dim_param if axes else ""
