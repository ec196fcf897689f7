"""The graph of a model: brought to one normal form, indexed, and read by the role of its nodes.

After `prepare` every graph has opset 20 or later, the batch axis `batch`, fixed sizes, constants folded into
initializers, unique names, and known shapes and types. FP16 in a file has become FP32 by then, control flow is decided,
functions are inlined, modulated and transposed convolutions are written such that backends run them in INT8. What
cannot be brought there is refused by the node's name. No pass changes what the graph computes, and most work on a
`Work`, which keeps large weights aside.

May import the ground, `model.messages`, `model.sessions` and the limits in `model.export.structure`.

From the ground up:

    layout, sizes, masks, view                     what only moves, is a size, or is masked; `GraphView`, an index
    macs, halves, roles                            multiply-accumulates, FP16 by ONNX's definitions, roles of nodes
    batch, noise                                   what mixes the samples of a batch; random nodes, found and fixed
    segments                                       two graphs of one model, cut at the tensors that both have
    border                                         names, types and sizes of inputs and outputs
    work                                           a model in preparation, its large weights kept aside
    refuse                                         what cannot be prepared
    functions, widen, pixels, group_norm           local functions, FP16 in the file, uint8 at the border, GroupNorm
    result_sizes, evaluate, fold, control, settle  infer, fold and decide branches until nothing changes
    attention, opset                               Attention as products; the upgrade to opset 20
    products, subpixel, modulated, pads            modulated and transposed convolutions, amounts of Pad
    prepare                                        all of it, in order

Start with `prepare.py`, then `view.py` and `roles.py`, on which plans and rules are built.
"""

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
