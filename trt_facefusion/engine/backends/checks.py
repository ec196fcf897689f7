"""What every backend asks of a typed ONNX before it starts."""

from __future__ import annotations

import onnx

from trt_facefusion.errors import BuildError
from trt_facefusion.model.messages import LARGE, count_tensor_bytes, declare_weights


def load_checked(model: bytes) -> onnx.ModelProto:
    """The model behind ``model``, checked: TensorRT's parser accepts empty bytes and some damaged files.

    Raises:
        BuildError: not valid ONNX, or weights lie outside of it.
    """
    try:
        proto = onnx.load_model_from_string(model)
        outside = [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        if not outside:
            _require_values(proto)
            onnx.checker.check_model(declare_weights(proto))  # not the whole: it would be parsed once more
    except Exception as error:  # onnx raises protobuf's, its checker's and plain ValueErrors
        raise BuildError(f"The network is not valid ONNX: {error}", "Export or lower the model again.") from error
    if outside:
        raise BuildError(
            f"{len(outside)} weights lie outside the ONNX file (the first is {outside[0]!r}).",
            "Load the model with its external data before lowering it.",
        )
    return proto


def _require_values(model: onnx.ModelProto) -> None:
    """Raise ValueError for a large weight, which the checker does not see, without all its values."""
    for tensor in model.graph.initializer:
        if count_tensor_bytes(tensor) < LARGE:
            continue
        if tensor.HasField("raw_data"):
            complete = len(tensor.raw_data) == count_tensor_bytes(tensor)
        else:
            complete = any(field.name.endswith("_data") for field, _ in tensor.ListFields())
        if not complete:
            raise ValueError(f"the initializer {tensor.name!r} does not hold the values of its shape")
