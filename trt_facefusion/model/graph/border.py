"""Where a graph meets its user: what its inputs and outputs are called, their types and their sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import shape_inference

from trt_facefusion.errors import ModelError
from trt_facefusion.model.messages import strip_weights
from trt_facefusion.types import TensorSpec

BATCH_AXIS = "batch"
_SMALL_BYTES = 513
"""Constants of fewer bytes may decide sizes, so that inference needs their values."""


def read_input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs that must be fed (initializers that are also listed as inputs are left out)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_read_spec(value) for value in model.graph.input if value.name not in constants)


def read_output_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What the model gives, in the file's order."""
    return tuple(_read_spec(value) for value in model.graph.output)


def _read_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.shape.dim)
    return TensorSpec(value.name, shape, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name)


def fix_inputs(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], batch: int | None = None
) -> frozenset[str]:
    """Write the described ``shapes`` (without batch axis) into the inputs; gives those that have no batch axis.

    An input of one dimension more than is described has a batch axis in front, which becomes ``batch`` where it is
    dynamic (None: stays so, under one name).

    Raises:
        ModelError: an input is not described, or takes another shape.
    """
    return frozenset(value.name for value in graph.input if not _fix_shape(value, shapes.get(value.name), batch))


def _fix_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...] | None, batch: int | None) -> bool:
    """Whether the input has a batch axis."""
    spec = _read_spec(value)
    if shape is None:
        raise ModelError(f"the model's input {spec} is not described", "describe it with --input")
    batched = len(spec.shape) == len(shape) + 1
    own = spec.shape[1:] if batched else spec.shape
    fits = len(own) == len(shape) and all(
        not isinstance(have, int) or have == want for have, want in zip(own, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, ("N", *shape)))
        raise ModelError(
            f"the input {value.name!r} is described as [{wanted}], but the model takes {spec}",
            "correct the --input that describes it (SIZE for an image, the embedder for an embedding, the array's "
            "shape without batch axis for a file)",
        )
    dims = list(value.type.tensor_type.shape.dim)
    if batched and (not isinstance(spec.shape[0], int) or spec.shape[0] == 0):
        dims[0].Clear()
        if batch is None:
            dims[0].dim_param = BATCH_AXIS
        else:
            dims[0].dim_value = batch
    for dim, size in zip(dims[int(batched) :], shape, strict=True):
        dim.Clear()
        dim.dim_value = size
    return batched


def keep_fed_inputs(graph: onnx.GraphProto) -> None:
    """Drop the inputs that are constants as well, as files of old versions list them."""
    constants = {tensor.name for tensor in graph.initializer}
    fed = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(fed)


def keep_outputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Drop all outputs but ``names``; what only the others need goes with the next removal of unused nodes."""
    kept = [value for value in graph.output if value.name in names]
    del graph.output[:]
    graph.output.extend(kept)


def infer_output_specs(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], batch: int | None = None
) -> tuple[TensorSpec, ...] | None:
    """What the file gives for inputs of these ``shapes``; None where that shows only after preparing it.

    Raises:
        ModelError: ``shapes`` does not fit the inputs.
    """
    light = strip_weights(model, _SMALL_BYTES)
    keep_fed_inputs(light.graph)
    fix_inputs(light.graph, shapes, batch)
    forget_output_shapes(light.graph)
    try:
        light = shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # whatever onnx's inference lacks, preparing may resolve
        return None
    known = all(value.type.tensor_type.HasField("shape") for value in light.graph.output)
    specs = read_output_specs(light) if known else ()
    sized = all(isinstance(size, int) for spec in specs for size in spec.shape[1:])
    return specs if specs and sized else None


def forget_output_shapes(graph: onnx.GraphProto) -> None:
    """Let inference say the outputs' sizes anew: the file's may hold names that are fixed by now, or be stale."""
    given = {value.name: value.type for value in graph.input}
    given |= {t.name: onnx.helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        if value.name in given:
            value.type.CopyFrom(given[value.name])
        elif kind:
            value.type.tensor_type.Clear()
            value.type.tensor_type.elem_type = kind
