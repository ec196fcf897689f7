"""Decide branches and unroll loops whose conditions and counts are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.work import CONTROL_FLOW, Work
from trt_facefusion.model.messages import iterate_subgraphs

MOST_UNROLLED = 5000
"""Nodes that a loop may become."""


def resolve_control_flow(work: Work) -> bool:
    """Replace each If whose condition is constant by its branch, and each Loop of a known count by its passes.

    Gives whether there was one. Raises ModelError for a loop that would become too many nodes.
    """
    constants = {t.name: t for t in work.graph.initializer}
    nodes_after: list[onnx.NodeProto] = []
    changed = False
    for node in work.graph.node:
        replacement = None
        if not node.domain and node.op_type == "If":
            replacement = _take_branch(work, node, constants)
        elif not node.domain and node.op_type == "Loop":
            replacement = _unroll_loop(work, node, constants)
        changed |= replacement is not None
        nodes_after += [node] if replacement is None else replacement
    if changed:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes_after]
        del work.graph.node[:]
        work.graph.node.extend(copies)
    return changed


def refuse_control_flow(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` naming what still branches or loops."""
    branching_nodes = [
        f"{node.op_type} {node.name or node.output[0]!r}" for node in graph.node if node.op_type in CONTROL_FLOW
    ]
    if branching_nodes:
        scans = all(kind.startswith("Scan ") for kind in branching_nodes)
        why = "no engine here runs a Scan" if scans else "what runs would depend on the input"
        raise ModelError(
            f"the model branches or loops ({', '.join(branching_nodes[:3])}): {why}",
            "export it with the inputs' sizes fixed, so that the exporter decides the branch; loops must be unrolled",
        )


def _read_scalar(name: str, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    tensor = constants.get(name)
    if tensor is None or int(np.prod(tensor.dims)) != 1 or tensor.data_type == onnx.TensorProto.STRING:
        return None
    return int(numpy_helper.to_array(tensor).reshape(()))


def _take_branch(
    work: Work, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto] | None:
    condition = _read_scalar(node.input[0], constants)
    if condition is None:
        return None
    branch = "then_branch" if condition else "else_branch"
    body = next((a.g for a in node.attribute if a.name == branch), None)
    if body is None or len(body.output) != len(node.output):
        return None
    return _inline(work, body, f"{node.output[0]}/", {}, list(node.output))


def _unroll_loop(
    work: Work, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto] | None:
    body = next((a.g for a in node.attribute if a.name == "body"), None)
    count = _read_scalar(node.input[0], constants)
    if body is None or count is None or not _is_counted_loop(node, body, constants):
        return None
    carried = list(node.input[2:])
    gathered = len(body.output) - 1 - len(carried)
    if len(body.input) != 2 + len(carried) or gathered < 0 or (count < 1 and gathered):
        return None
    if count * max(len(body.node), 1) > MOST_UNROLLED:
        raise ModelError(
            f"the loop {node.name or node.output[0]!r} makes {count} passes over {len(body.node)} nodes: unrolled, "
            f"that is too much (at most {MOST_UNROLLED})",
            "export the model without the loop",
        )
    prefix = node.output[0]
    nodes: list[onnx.NodeProto] = []
    collected: list[list[str]] = [[] for _ in range(gathered)]
    work.add(f"{prefix}/true", np.array(True))
    for step in range(count):
        work.add(f"{prefix}/{step}", np.array(step, np.int64))
        arguments = [f"{prefix}/{step}", f"{prefix}/true", *carried]
        names = dict(zip((body_input.name for body_input in body.input), arguments, strict=True))
        results = [f"{prefix}/{step}/out{i}" for i in range(len(body.output))]
        nodes += _inline(work, body, f"{prefix}/{step}/", names, results)
        carried = results[1 : 1 + len(carried)]
        for parts, part in zip(collected, results[1 + len(carried) :], strict=True):
            parts.append(part)
    nodes += [helper.make_node("Identity", [a], [b]) for a, b in zip(carried, node.output, strict=False) if b]
    for parts, output in zip(collected, node.output[len(carried) :], strict=False):
        nodes += _stack(work, parts, output)
    return nodes


def _is_counted_loop(node: onnx.NodeProto, body: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether only the count ends the loop."""
    if len(node.input) > 1 and node.input[1] and _read_scalar(node.input[1], constants) != 1:
        return False
    own = {t.name: t for t in body.initializer}
    producer = {o: n for n in body.node for o in n.output}
    name = body.output[0].name
    while name in producer and producer[name].op_type in {"Identity", "Cast"}:
        name = producer[name].input[0]
    if name in producer and producer[name].op_type == "Constant":
        attribute = producer[name].attribute[0]
        own[name] = attribute.t if attribute.name == "value" else numpy_helper.from_array(np.array(attribute.i), name)
    return name == body.input[1].name or _read_scalar(name, {**constants, **own}) == 1


def _stack(work: Work, parts: list[str], output: str) -> list[onnx.NodeProto]:
    nodes = []
    for name in parts:
        if work.opset < 13:
            nodes.append(helper.make_node("Unsqueeze", [name], [f"{name}/row"], axes=[0]))
        else:
            if name == parts[0]:
                work.add(f"{output}/axis", np.array([0], np.int64))
            nodes.append(helper.make_node("Unsqueeze", [name, f"{output}/axis"], [f"{name}/row"]))
    return [*nodes, helper.make_node("Concat", [f"{name}/row" for name in parts], [output], axis=0)]


def _inline(
    work: Work, body: onnx.GraphProto, prefix: str, input_names: Mapping[str, str], outputs: list[str]
) -> list[onnx.NodeProto]:
    """The nodes of ``body`` for the outer graph; ``input_names`` names its inputs there, ``outputs`` its results."""
    names = dict(input_names)
    made_inside = {o for n in body.node for o in n.output if o}
    names |= {name: prefix + name for name in (*made_inside, *(t.name for t in body.initializer))}
    extra = []
    renamed: set[str] = set()
    for inner_output, output in zip(body.output, outputs, strict=True):
        if inner_output.name in made_inside and inner_output.name not in renamed:
            names[inner_output.name] = output
            renamed.add(inner_output.name)
    for inner_output, output in zip(body.output, outputs, strict=True):
        if output and names.get(inner_output.name, inner_output.name) != output:
            extra.append(
                helper.make_node(
                    "Identity", [names.get(inner_output.name, inner_output.name)], [output], f"{output}/same"
                )
            )
    for tensor in body.initializer:
        work.add(prefix + tensor.name, numpy_helper.to_array(tensor))
    nodes = []
    for inner in body.node:
        node = onnx.NodeProto()
        node.CopyFrom(inner)
        node.name = prefix + inner.name if inner.name else ""
        _rename_tensors(node, names)
        nodes.append(node)
    return nodes + extra


def _rename_tensors(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename what a node reads and makes, and what the graphs inside it read from outside."""
    node.input[:] = _map_names(node.input, names)
    node.output[:] = _map_names(node.output, names)
    for graph in iterate_subgraphs(node):
        own = {graph_input.name for graph_input in graph.input} | {t.name for t in graph.initializer}
        own |= {o for n in graph.node for o in n.output}
        outer = {a: b for a, b in names.items() if a not in own}
        for inner in graph.node:
            _rename_tensors(inner, outer)
        for output in graph.output:
            output.name = outer.get(output.name, output.name)


def _map_names(tensors: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return [names.get(name, name) if name else name for name in tensors]
