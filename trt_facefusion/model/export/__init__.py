"""Where a model comes from: a user's ONNX file, or a torch network that is exported and held against its export.

A source tells its digest without loading the network, so that an engine that is up to date is found at once; it loads
the model as ONNX when asked, and runs what was handed in, untouched, for reference pictures. An ONNX file that nobody
has vouched for passes every check that needs no inputs, in an order in which each may trust what the earlier ones saw.

May import the ground, `storage`, `model.messages` and `model.generators`.

From the ground up:

    structure       sizes, names, types and bytes of a file, before anything else reads it
    tolerate        what onnxruntime does not mind and onnx's checker does: order of nodes, names, notes
    external        weights in files beside the model, and which of them may be read
    onnx_file       an ONNX file, read and checked
    torch_export    torch -> ONNX, and how far the two differ
    source          what every source of a model tells; that of an ONNX file
    torch_source    the sources whose model is a torch network: a checkpoint, the reference generator
    origin          where a model was read from, which tells namesakes apart

Start with `source.py`.
"""

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
