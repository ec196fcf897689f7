"""Put local functions into the graph: to the other rooms, a function's nodes are nodes like any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import helper, inliner, shape_inference

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export.structure import MOST_NODES
from trt_facefusion.model.graph.work import Work, summarise_error

_Key = tuple[str, str]
_STANDARD = frozenset({"", "ai.onnx"})


def inline_functions(work: Work) -> None:
    """Inline all local functions of ``work``.

    Raises:
        ModelError: they call themselves, would become too many nodes, or cannot be inlined.
    """
    if not work.model.functions:
        return
    _require_few(work.model)

    standard = [o.version for f in work.model.functions for o in f.opset_import if o.domain in _STANDARD]
    differ = any(version != work.opset for version in standard)
    if differ:
        _declare_types(work.graph)

    def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
        try:
            return inliner.inline_local_functions(_infer_types(model) if differ else model, convert_version=differ)
        except Exception as error:
            raise ModelError(
                f"the model's local functions cannot be inlined: {summarise_error(error)}",
                "export the model without functions",
            ) from error

    work.through(inlined)

    left = [f.name for f in work.model.functions]
    if left:
        raise ModelError(
            f"the model's local function {left[0]!r} cannot be inlined: its opset is not the model's",
            "export the model with one opset for all",
        )


def _declare_types(graph: onnx.GraphProto) -> None:
    """Note the types of constants in place of what notes there are: the converter asks for every tensor's."""
    del graph.value_info[:]
    fed = {value.name for value in graph.input}
    constants = [tensor for tensor in graph.initializer if tensor.name not in fed]
    graph.value_info.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in constants)


def _infer_types(model: onnx.ModelProto) -> onnx.ModelProto:
    return shape_inference.infer_shapes(model)


def _require_few(model: onnx.ModelProto) -> None:
    """Count what inlining would make, without doing it: functions that call two others each double it."""
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    sizes: dict[_Key, int] = {}
    waiting = list(bodies)
    begun: set[_Key] = set()
    while waiting:
        key = waiting[-1]
        missing = [k for k in _list_called(bodies[key], bodies) if k not in sizes]
        if key in sizes:
            waiting.pop()
        elif missing and key in begun:
            raise ModelError(f"the local function {key[1]!r} calls itself", "export the model without functions")
        elif missing:
            begun.add(key)
            waiting += missing
        else:
            sizes[key] = _count_nodes(bodies[key], sizes)
            waiting.pop()
    total = _count_nodes(model.graph.node, sizes)
    if total > MOST_NODES:
        largest = max(sizes, key=lambda k: sizes[k])
        raise ModelError(
            f"the model's local functions would become {total:.3g} nodes (the largest is {largest[1]!r}); "
            f"at most {MOST_NODES} are read",
            "export the model without functions",
        )


def _count_nodes(nodes: Sequence[onnx.NodeProto], sizes: dict[_Key, int]) -> int:
    return sum(sizes.get((node.domain, node.op_type), 1) for node in _all(nodes))


def _list_called(nodes: Sequence[onnx.NodeProto], bodies: Mapping[_Key, Sequence[onnx.NodeProto]]) -> list[_Key]:
    return [key for node in _all(nodes) if (key := (node.domain, node.op_type)) in bodies]


def _all(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _all(inner.node)
