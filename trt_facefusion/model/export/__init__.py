"""Where a model comes from: torch -> ONNX with the check that they agree, or a user's ONNX file."""

from trt_facefusion.model.export.onnx_file import load_model, model_digest
from trt_facefusion.model.export.source import CheckpointSource, ModelSource, OnnxSource, ReferenceSource, origin_of

__all__ = [
    "CheckpointSource",
    "ModelSource",
    "OnnxSource",
    "ReferenceSource",
    "load_model",
    "model_digest",
    "origin_of",
]
