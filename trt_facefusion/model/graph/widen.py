"""FP16 in the file becomes FP32: a plan decides anew what may be FP16, and is judged against FP32.

Inputs and outputs keep their types: a Cast stands behind and in front of them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.model.graph.work import Work

_NARROW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "stash_type"})


def widen(work: Work) -> bool:
    """Make every FP16 (and BF16) tensor of ``work`` FP32, in place; whether there was one."""
    if not _is_narrow(work.graph):
        return False
    for tensor in list(work.graph.initializer):
        if tensor.data_type in _NARROW:
            work.replace(_widen_tensor(work.tensor(tensor)))
    _widen_nodes(work.graph)
    _keep_border(work.graph)
    return True


def drop_casts(work: Work) -> None:
    """Drop each Cast from FP32 to FP32: what is left of those to and from FP16. Types must be inferred."""
    graph = work.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    fixed = {value.name for value in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
    kept = []
    for index, node in enumerate(graph.node):
        x, y = node.input[:1], node.output[:1]
        idle = node.op_type == "Cast" and not node.domain and types.get(x[0]) == types.get(y[0]) == TensorProto.FLOAT
        if idle and y[0] not in fixed:
            _read_instead(graph, y[0], x[0])
        elif idle and x[0] not in fixed:
            for maker in graph.node:
                maker.output[:] = [y[0] if name == x[0] else name for name in maker.output]
            _read_instead(graph, x[0], y[0])
        else:
            kept.append(index)
    copies = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in kept]
    del graph.node[:]
    graph.node.extend(copies)


def _is_narrow(graph: onnx.GraphProto) -> bool:
    """Whether there is anything to widen."""
    types = [tensor.data_type for tensor in graph.initializer]
    types += [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    for node in graph.node:
        for a in node.attribute:
            types += [a.t.data_type] if a.HasField("t") else []
            types += [a.i] if a.name in _TYPE_ATTRIBUTES else []
            if any(_is_narrow(inner) for inner in ([a.g] if a.HasField("g") else [])):
                return True
    return not _NARROW.isdisjoint(types)


def _widen_tensor(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _widen_nodes(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for a in node.attribute:
            if a.HasField("t") and a.t.data_type in _NARROW:
                a.t.CopyFrom(_widen_tensor(a.t))
            elif a.name in _TYPE_ATTRIBUTES and a.i in _NARROW:
                a.i = TensorProto.FLOAT
            for inner in ([a.g] if a.HasField("g") else []) + list(a.graphs):
                _widen_inner(inner)


def _widen_inner(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        if tensor.data_type in _NARROW:
            tensor.CopyFrom(_widen_tensor(tensor))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    _widen_nodes(graph)


def _keep_border(graph: onnx.GraphProto) -> None:
    first, last = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type in _NARROW:
            wide = f"{value.name}/fp32"
            _read_instead(graph, value.name, wide)
            first.append(helper.make_node("Cast", [value.name], [wide], f"{wide}/cast", to=TensorProto.FLOAT))
    for value in graph.output:
        if value.type.tensor_type.elem_type in _NARROW:
            wide = f"{value.name}/fp32"
            for node in graph.node:
                node.output[:] = [wide if name == value.name else name for name in node.output]
            _read_instead(graph, value.name, wide)
            kind = value.type.tensor_type.elem_type
            last.append(helper.make_node("Cast", [wide], [value.name], f"{value.name}/cast", to=kind))
    nodes = [*first, *graph.node, *last]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _read_instead(graph: onnx.GraphProto, name: str, wide: str) -> None:
    for node in graph.node:
        node.input[:] = [wide if i == name else i for i in node.input]
        for a in node.attribute:
            for inner in ([a.g] if a.HasField("g") else []) + list(a.graphs):
                _read_instead(inner, name, wide)
                for value in inner.output:
                    value.name = wide if value.name == name else value.name
