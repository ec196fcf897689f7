"""Where a model comes from: torch -> ONNX with the check that they agree, or a user's ONNX file."""

from trt_facefusion.model.export.onnx_file import digest_model, load_model
from trt_facefusion.model.export.source import (
    CheckpointSource,
    ModelSource,
    OnnxSource,
    ReferenceSource,
    identify_origin,
)

__all__ = [
    "CheckpointSource",
    "ModelSource",
    "OnnxSource",
    "ReferenceSource",
    "digest_model",
    "identify_origin",
    "load_model",
]
