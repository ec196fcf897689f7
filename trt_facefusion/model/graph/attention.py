"""Attention as one operator (opset 23 on), written with the products that it consists of.

As one operator it has no weights and no products that a plan could see, and TensorRT-RTX builds no INT8 around it.
onnx itself defines it by other operators; its definition is taken.
"""

from __future__ import annotations

import onnx
from onnx import helper, inliner

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.work import Work, summarise_error

_ATTENTION = "Attention"


def expand_attention(work: Work) -> bool:
    """Expand every Attention of ``work``, whose shapes are inferred; says whether there was one.

    Raises:
        ModelError: onnx cannot expand it.
    """
    found = [node for node in work.graph.node if node.op_type == _ATTENTION and not node.domain]
    if not found:
        return False
    for index, node in enumerate(work.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    prefixes = [(node.name, {name for name in node.output if name}) for node in found]

    read = {name for node in found for name in node.input}
    constants = [t for t in work.graph.initializer if t.name in read]  # onnx asks for their types as for any tensor's
    types = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in constants]
    work.graph.value_info.extend(types)

    def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
        try:
            return inliner.inline_selected_functions(model, [("", _ATTENTION)], inline_schema_functions=True)
        except Exception as error:
            raise ModelError(
                f"the Attention {found[0].name!r} cannot be expanded: {summarise_error(error)}",
                "export the model with opset_version=20, or with attention written out",
            ) from error

    work.through(expanded)
    _name_after(work.graph, prefixes)
    return True


def _name_after(graph: onnx.GraphProto, prefixes: list[tuple[str, set[str]]]) -> None:
    """Name what came of each Attention after it: its nodes follow each other, and the last ones make its outputs."""
    waiting = [(name, set(outputs)) for name, outputs in prefixes]
    for index, node in enumerate(graph.node):
        if not node.name and waiting:
            name, outputs = waiting[0]
            node.name = f"{name}/{node.op_type}_{index}"
            outputs.difference_update(node.output)
            if not outputs:
                waiting.pop(0)
