"""Decide branches and unroll loops whose conditions and counts are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.work import CONTROL_FLOW, Work

MOST_UNROLLED = 5000
"""Nodes that a loop may become."""


def resolve_control_flow(work: Work) -> bool:
    """Replace each If whose condition is constant by its branch, and each Loop of a known count by its passes.

    Gives whether there was one. Raises ModelError for a loop that would become too many nodes.
    """
    constants = {t.name: t for t in work.graph.initializer}
    kept: list[onnx.NodeProto] = []
    changed = False
    for node in work.graph.node:
        made = None
        if not node.domain and node.op_type == "If":
            made = _take_branch(work, node, constants)
        elif not node.domain and node.op_type == "Loop":
            made = _unroll_loop(work, node, constants)
        changed |= made is not None
        kept += [node] if made is None else made
    if changed:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del work.graph.node[:]
        work.graph.node.extend(nodes)
    return changed


def refuse_control_flow(graph: onnx.GraphProto) -> None:
    """Raise `ModelError` naming what still branches or loops."""
    found = [f"{node.op_type} {node.name or node.output[0]!r}" for node in graph.node if node.op_type in CONTROL_FLOW]
    if found:
        scans = all(kind.startswith("Scan ") for kind in found)
        why = "no engine here runs a Scan" if scans else "what runs would depend on the input"
        raise ModelError(
            f"the model branches or loops ({', '.join(found[:3])}): {why}",
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
    wanted = "then_branch" if condition else "else_branch"
    body = next((a.g for a in node.attribute if a.name == wanted), None)
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
    made: list[onnx.NodeProto] = []
    collected: list[list[str]] = [[] for _ in range(gathered)]
    work.add(f"{prefix}/true", np.array(True))
    for step in range(count):
        work.add(f"{prefix}/{step}", np.array(step, np.int64))
        given = [f"{prefix}/{step}", f"{prefix}/true", *carried]
        names = dict(zip((value.name for value in body.input), given, strict=True))
        results = [f"{prefix}/{step}/out{i}" for i in range(len(body.output))]
        made += _inline(work, body, f"{prefix}/{step}/", names, results)
        carried = results[1 : 1 + len(carried)]
        for found, result in zip(collected, results[1 + len(carried) :], strict=True):
            found.append(result)
    made += [helper.make_node("Identity", [a], [b]) for a, b in zip(carried, node.output, strict=False) if b]
    for found, output in zip(collected, node.output[len(carried) :], strict=False):
        made += _stack(work, found, output)
    return made


def _is_counted_loop(node: onnx.NodeProto, body: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether only the count ends the loop."""
    if len(node.input) > 1 and node.input[1] and _read_scalar(node.input[1], constants) != 1:
        return False
    own = {t.name: t for t in body.initializer}
    made = {o: n for n in body.node for o in n.output}
    name = body.output[0].name
    while name in made and made[name].op_type in {"Identity", "Cast"}:
        name = made[name].input[0]
    if name in made and made[name].op_type == "Constant":
        value = made[name].attribute[0]
        own[name] = value.t if value.name == "value" else numpy_helper.from_array(np.array(value.i), name)
    return name == body.input[1].name or _read_scalar(name, {**constants, **own}) == 1


def _stack(work: Work, parts: list[str], output: str) -> list[onnx.NodeProto]:
    made = []
    for name in parts:
        if work.opset < 13:
            made.append(helper.make_node("Unsqueeze", [name], [f"{name}/row"], axes=[0]))
        else:
            if name == parts[0]:
                work.add(f"{output}/axis", np.array([0], np.int64))
            made.append(helper.make_node("Unsqueeze", [name, f"{output}/axis"], [f"{name}/row"]))
    return [*made, helper.make_node("Concat", [f"{name}/row" for name in parts], [output], axis=0)]


def _inline(
    work: Work, body: onnx.GraphProto, prefix: str, given: Mapping[str, str], outputs: list[str]
) -> list[onnx.NodeProto]:
    """The nodes of ``body`` for the outer graph; ``given`` names its inputs there, ``outputs`` its results."""
    names = dict(given)
    made_inside = {o for n in body.node for o in n.output if o}
    names |= {name: prefix + name for name in (*made_inside, *(t.name for t in body.initializer))}
    extra = []
    taken: set[str] = set()
    for value, output in zip(body.output, outputs, strict=True):
        if value.name in made_inside and value.name not in taken:
            names[value.name] = output
            taken.add(value.name)
    for value, output in zip(body.output, outputs, strict=True):
        if output and names.get(value.name, value.name) != output:
            extra.append(helper.make_node("Identity", [names.get(value.name, value.name)], [output], f"{output}/same"))
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
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            own = {value.name for value in graph.input} | {t.name for t in graph.initializer}
            own |= {o for n in graph.node for o in n.output}
            outer = {a: b for a, b in names.items() if a not in own}
            for inner in graph.node:
                _rename_tensors(inner, outer)
            for value in graph.output:
                value.name = outer.get(value.name, value.name)


def _map_names(found: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return [names.get(name, name) if name else name for name in found]
