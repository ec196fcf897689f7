"""Infer shapes, compute what they fix, decide what that decides: until nothing changes."""

from __future__ import annotations

import numpy as np
import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.control import resolve_control_flow
from trt_facefusion.model.graph.fold import fold, make_budget
from trt_facefusion.model.graph.refuse import refuse_operators, require_few_nodes
from trt_facefusion.model.graph.work import Work

_ROUNDS = 100
"""Exporters' shape arithmetic needs a handful."""


def settle(work: Work) -> None:
    """Bring ``work`` to a fixed point of inference, folding and decisions.

    Raises:
        ModelError: shapes contradict each other, constants would not fit into memory, or a loop is too long.
    """
    budget = make_budget(work)
    follow = False
    for _ in range(_ROUNDS):
        work.infer(follow)
        changed = fold(work, budget)
        decided = resolve_control_flow(work)
        if decided:
            refuse_operators(work.graph)
            require_few_nodes(work.graph)
            replace_constants(work)
        work.drop_unused()
        if not (changed or decided):
            if follow:
                return
            follow = True


def replace_constants(work: Work) -> None:
    """Turn every Constant into an initializer, whatever attribute holds its value.

    Raises:
        ModelError: a sparse constant.
    """
    kept = []
    for node in work.graph.node:
        attribute = node.attribute[0] if node.op_type == "Constant" and not node.domain and node.attribute else None
        if attribute is None or attribute.name.startswith("value_string"):
            kept.append(node)
        elif attribute.name == "sparse_value":
            raise ModelError(
                f"the Constant {node.name or node.output[0]!r} is sparse, and no engine takes sparse constants",
                "export the model with dense weights",
            )
        elif attribute.name == "value":
            work.add_tensor(node.output[0], attribute.t)
        else:
            kind = np.float32 if attribute.name.startswith("value_float") else np.int64
            work.add(node.output[0], np.array(onnx.helper.get_attribute_value(attribute), kind))
    del work.graph.node[:]
    work.graph.node.extend(kept)
