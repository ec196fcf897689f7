"""What every engine maker asks of a typed ONNX before it starts."""

from __future__ import annotations

import onnx

from trt_facefusion.errors import BuildError


def checked(model: bytes) -> onnx.ModelProto:
    """The model behind ``model``, checked: TensorRT's parser accepts empty bytes and some damaged files.

    Raises:
        BuildError: not valid ONNX, or weights lie outside of it.
    """
    try:
        proto = onnx.load_model_from_string(model)
        outside = [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        if not outside:
            onnx.checker.check_model(model)  # the bytes: of a model it would make them once more
    except Exception as error:  # onnx raises protobuf's, its checker's and plain ValueErrors
        raise BuildError(f"The network is not valid ONNX: {error}", "Export or lower the model again.") from error
    if outside:
        raise BuildError(
            f"{len(outside)} weights lie outside the ONNX file (the first is {outside[0]!r}).",
            "Load the model with its external data before lowering it.",
        )
    return proto
