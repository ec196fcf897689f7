"""Where a model comes from: torch -> ONNX with the check that they agree, or a user's ONNX file."""

from trt_facefusion.model.export.onnx_file import digest_model, load_model
from trt_facefusion.model.export.origin import identify_origin
from trt_facefusion.model.export.source import ModelSource, OnnxSource
from trt_facefusion.model.export.torch_source import CheckpointSource, ReferenceSource

__all__ = [
    "CheckpointSource",
    "ModelSource",
    "OnnxSource",
    "ReferenceSource",
    "digest_model",
    "identify_origin",
    "load_model",
]
