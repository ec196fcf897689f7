"""Where a graph meets its user: what its inputs and outputs are called, their types and their sizes."""

from __future__ import annotations

import numpy as np
import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.types import TensorSpec

BATCH_AXIS = "batch"


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs that must be fed (initializers that are also listed as inputs are left out)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in constants)


def output_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What the model gives, in the file's order."""
    return tuple(_spec(value) for value in model.graph.output)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.shape.dim)
    return TensorSpec(value.name, shape, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name)


def fix_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...] | None) -> None:
    """Write the described ``shape`` (without batch axis) into an input, and name its batch axis.

    Raises:
        ModelError: the input is not described, or takes another shape.
    """
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


def forget_output_shapes(graph: onnx.GraphProto) -> None:
    """Let inference say the outputs' sizes anew: the file's may hold names that are fixed by now."""
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        value.type.tensor_type.Clear()
        value.type.tensor_type.elem_type = kind
