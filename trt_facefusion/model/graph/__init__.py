"""Reading an ONNX graph: preparation, roles of nodes, multiply-accumulates."""

from trt_facefusion.model.graph.border import input_specs
from trt_facefusion.model.graph.halves import holds_half, makes_indices, takes_half
from trt_facefusion.model.graph.macs import macs, node_macs
from trt_facefusion.model.graph.prepare import PreparedModel, prepare
from trt_facefusion.model.graph.roles import Role, classify
from trt_facefusion.model.graph.view import GraphView, attribute

__all__ = [
    "GraphView",
    "PreparedModel",
    "Role",
    "attribute",
    "classify",
    "holds_half",
    "input_specs",
    "macs",
    "makes_indices",
    "node_macs",
    "prepare",
    "takes_half",
]
