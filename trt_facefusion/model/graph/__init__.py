"""Reading an ONNX graph: preparation, roles of nodes, multiply-accumulates."""

from trt_facefusion.model.graph.border import read_input_specs
from trt_facefusion.model.graph.halves import holds_half, makes_indices, takes_half
from trt_facefusion.model.graph.macs import count_macs, count_node_macs
from trt_facefusion.model.graph.prepare import PreparedModel, prepare
from trt_facefusion.model.graph.roles import Role, classify
from trt_facefusion.model.graph.view import GraphView, read_attribute

__all__ = [
    "GraphView",
    "PreparedModel",
    "Role",
    "classify",
    "count_macs",
    "count_node_macs",
    "holds_half",
    "makes_indices",
    "prepare",
    "read_attribute",
    "read_input_specs",
    "takes_half",
]
