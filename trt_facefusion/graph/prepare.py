"""Bring a checked model into the one form the other rooms work on.

After `prepare`: opset 20 or later, batch axis named `batch` (where it is dynamic), all other sizes fixed, constants
folded into initializers, every node named uniquely, shapes and types of all tensors known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.graph.control import refuse_control_flow
from trt_facefusion.graph.functions import inline_functions
from trt_facefusion.graph.group_norm import expand_group_norms
from trt_facefusion.graph.opset import expand_mean_variance, upgrade
from trt_facefusion.graph.refuse import refuse_operators, refuse_values, require_shapes
from trt_facefusion.graph.settle import constants_to_initializers, settle
from trt_facefusion.graph.widen import widen
from trt_facefusion.graph.work import Work
from trt_facefusion.types import TensorSpec

OPSET = 20
"""The oldest opset we lower to: FP16 scales of Q/DQ need 19, GELU 20."""

BATCH_AXIS = "batch"
_OLDEST_IR = 8
"""Before 4, initializers had to be listed as inputs, too; opset 20 itself came with 9."""


@dataclass(frozen=True)
class PreparedModel:
    """A prepared model and what it takes and gives. Axis 0 of ``inputs`` is `batch` or a fixed number."""

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def dynamic_batch(self) -> bool:
        """Whether the batch size can be chosen."""
        return all(spec.shape[:1] == (BATCH_AXIS,) for spec in self.inputs)

    @property
    def fixed_batch(self) -> int:
        """The batch size of a model that cannot choose (1 where it can)."""
        return next((int(s.shape[0]) for s in self.inputs if s.shape and isinstance(s.shape[0], int)), 1)


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs that must be fed (initializers that are also listed as inputs are left out)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in constants)


def prepare(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> PreparedModel:
    """Prepare ``model``; ``shapes`` gives each input's shape *without* the batch axis.

    Raises:
        ModelError: ``shapes`` does not fit the inputs, an operator is unknown or not of FP32, the model cannot be
            upgraded, its shapes do not fit together, or what runs depends on the input.
    """
    work = Work(model)
    work.model.ir_version = max(work.model.ir_version, _OLDEST_IR)
    inline_functions(work)
    graph = work.graph
    constants = {tensor.name for tensor in graph.initializer}
    fed = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(fed)
    for value in graph.input:
        _fix_shape(value, shapes.get(value.name))
    _normalise(work)
    require_shapes(work.graph)
    prepared = work.whole()
    return PreparedModel(prepared, input_specs(prepared), tuple(_spec(value) for value in prepared.graph.output))


def _normalise(work: Work) -> None:
    """Bring the graph, whose inputs are fixed, into the one form."""
    del work.graph.value_info[:]
    work.drop_unused()
    refuse_values(work.graph)
    refuse_operators(work.graph)
    widen(work)
    expand_group_norms(work.graph, work.opset)
    expand_mean_variance(work)
    constants_to_initializers(work)
    settle(work)
    refuse_control_flow(work.graph)
    upgrade(work, OPSET)
    constants_to_initializers(work)
    settle(work)
    work.drop_unused()
    _name_nodes(work.graph)
    work.infer()


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.shape.dim)
    return TensorSpec(value.name, shape, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name)


def _fix_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...] | None) -> None:
    spec = _spec(value)
    if shape is None:
        raise ModelError(f"the model's input {spec} is not described", "describe it with --input")
    fits = len(spec.shape) == len(shape) + 1 and all(
        not isinstance(have, int) or have == want for have, want in zip(spec.shape[1:], shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, ("N", *shape)))
        raise ModelError(
            f"the input {value.name!r} is described as [{wanted}], but the model takes {spec}",
            "correct the --input that describes it (SIZE for an image, the embedder for an embedding, the array's "
            "shape without batch axis for a file)",
        )
    dims = value.type.tensor_type.shape.dim
    if not isinstance(spec.shape[0], int) or spec.shape[0] == 0:
        dims[0].Clear()
        dims[0].dim_param = BATCH_AXIS
    for dim, size in zip(list(dims)[1:], shape, strict=True):
        dim.Clear()
        dim.dim_value = size


def _name_nodes(graph: onnx.GraphProto) -> None:
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
            while node.name in seen:
                node.name += "_"
        seen.add(node.name)
