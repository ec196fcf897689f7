"""GroupNormalization, written with InstanceNormalization as torch's older exporter does.

onnx infers no shape for GroupNormalization, and upgrades it from opset 20 to 21 without regard to its changed
definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.types import Array

MOST_GROUPS = 1 << 20


def expand_group_norms(graph: onnx.GraphProto, opset: int) -> None:
    """Replace every GroupNormalization of ``graph``, in place. Raises ModelError for an impossible number of groups."""
    nodes = [_expand(graph, n, opset) if n.op_type == "GroupNormalization" else [n] for n in graph.node]
    del graph.node[:]
    graph.node.extend(node for group in nodes for node in group)


def _expand(graph: onnx.GraphProto, node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    groups, (x, scale, bias), prefix = int(settings["num_groups"]), node.input, node.output[0]
    made: list[onnx.NodeProto] = []
    if not 1 <= groups <= MOST_GROUPS:
        raise ModelError(
            f"the GroupNormalization {node.name or prefix!r} has {groups} groups", "export the model again"
        )

    def constant(name: str, value: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{prefix}/{name}"))
        return f"{prefix}/{name}"

    def op(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        made.append(onnx.helper.make_node(kind, inputs, [f"{prefix}/{name}"], f"{prefix}/{name}", **attributes))
        return f"{prefix}/{name}"

    per_group = opset < 21  # since then, scale and bias hold a value for each channel
    norm_scale = scale if per_group else constant("ones", np.ones(groups, np.float32))
    norm_bias = bias if per_group else constant("zeros", np.zeros(groups, np.float32))
    y = op("Reshape", x, constant("groups", np.array([0, groups, -1])), name="split")
    y = op("InstanceNormalization", y, norm_scale, norm_bias, name="norm", epsilon=settings.get("epsilon", 1e-5))
    if not per_group:
        axes, channels = constant("axes", np.array([1])), op("Shape", scale, name="channels")
        shape = op(
            "Concat", constant("batch", np.array([0])), channels, constant("rest", np.array([-1])), name="to", axis=0
        )
        y = op("Mul", op("Reshape", y, shape, name="join"), op("Unsqueeze", scale, axes, name="s"), name="scaled")
        y = op("Add", y, op("Unsqueeze", bias, axes, name="b"), name="shifted")
    op("Reshape", y, op("Shape", x, name="shape"), name="out")
    made[-1].name, made[-1].output[0] = node.name, node.output[0]
    return made
