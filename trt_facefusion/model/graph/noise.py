"""Random nodes of a graph as it was handed in: found by name, and fixed where the user asks for that.

The enhancers of StyleGAN's kin add noise at every resolution. Such a network has no picture to hold an engine
against, until its noise is zero or always the same.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.graph.view import read_attribute
from trt_facefusion.types import Array

_LIKE = {"RandomNormalLike", "RandomUniformLike"}
FIXABLE = {"RandomNormal", "RandomUniform", *_LIKE}
"""Operators whose values can be taken from elsewhere without another meaning."""
_RANDOM = {*FIXABLE, "Multinomial", "Bernoulli"}


@dataclass(frozen=True, eq=False)
class Noise:
    """What noise is replaced by: zeros, or constants from a generator with ``seed``.

    ``values`` holds the constants of a seeded generator by the name of the tensor (see `draw_noise`); ``nodes`` are those
    that are fixed.
    """

    seed: int | None = None
    values: Mapping[str, Array] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "zero" if self.seed is None else f"seed:{self.seed}"


def parse_noise(text: str) -> Noise:
    """What ``--noise`` says: ``zero``, ``seed`` or ``seed:NUMBER``.

    Raises:
        BadInputError: it says something else.
    """
    match = re.fullmatch(r"zero|seed(?::(\d{1,9}))?", text.strip())
    if match is None:
        raise BadInputError(f"--noise {text!r} is not understood", "write zero, seed or seed:NUMBER")
    return Noise() if text.strip() == "zero" else Noise(int(match[1] or 0))


def find_random_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that give other values each time and that an output depends on, nested graphs and functions included."""
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 1)
    found = [node for node in _iterate_needed(model.graph) if _is_random(node, model.graph, opset)]
    called = {node.op_type for node in _iterate_needed(model.graph)}
    for function in model.functions:
        if function.name in called:
            found += [node for node in function.node if _is_random(node, model.graph, opset)]
    return found


def _iterate_needed(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that the graph's outputs depend on; of nested graphs all."""
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        needed.update(node.input)
        yield node
        for nested in _nested(node):
            needed.update(name for inner in nested.node for name in inner.input)
            yield from nested.node


def _nested(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute_ in node.attribute:
        for graph in (*([attribute_.g] if attribute_.HasField("g") else []), *attribute_.graphs):
            yield graph
            for inner in graph.node:
                yield from _nested(inner)


def _is_random(node: onnx.NodeProto, graph: onnx.GraphProto, opset: int) -> bool:
    if node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type != "Dropout":
        return node.op_type in _RANDOM
    if opset < 7:
        return not read_attribute(node, "is_test", 0)
    if len(node.input) < 3 or not node.input[2]:
        return False
    training = _find_constant(graph, node.input[2])
    return training is None or bool(training.any())


def _find_constant(graph: onnx.GraphProto, name: str) -> Array | None:
    for tensor in graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output:
            value = read_attribute(node, "value")
            return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else None
    return None


def require_no_noise(model: onnx.ModelProto) -> None:
    """Raise `ModelError`, naming the nodes, if the pictures of ``model`` change from run to run."""
    nodes = find_random_nodes(model)
    if not nodes:
        return
    names = ", ".join(f"{node.name or node.output[0]} ({node.op_type})" for node in nodes[:3])
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    verb = "is" if len(nodes) == 1 else "are"
    if all(node.op_type in FIXABLE for node in nodes):
        remedy = "add --noise zero, or --noise seed for noise that is always the same; the engine then holds it so"
    else:
        remedy = "export the network in evaluation mode (net.eval()), without operators that draw random numbers"
    raise ModelError(
        f"{names}{more} {verb} random, no verdict is possible: the same face gives another picture each time", remedy
    )


def draw_noise(nodes: list[onnx.NodeProto], shapes: Mapping[str, Array], seed: int) -> Noise:
    """The noise of ``nodes`` from a generator; ``shapes`` holds a value of each for one sample, for its shape and type.

    Each tensor has a generator of its own, so that no other node changes its noise.
    """
    values = {}
    for node in nodes:
        name = node.output[0]
        rng, like = np.random.default_rng([seed, zlib.crc32(name.encode())]), shapes[name]
        first, second = _read_parameters(node)
        if "Normal" in node.op_type:
            drawn = first + second * rng.standard_normal(like.shape)
        else:
            drawn = rng.uniform(first, second, like.shape)
        values[name] = drawn.astype(like.dtype)
    return Noise(seed, values)


def _read_parameters(node: onnx.NodeProto) -> tuple[float, float]:
    names = (("mean", 0.0), ("scale", 1.0)) if "Normal" in node.op_type else (("low", 0.0), ("high", 1.0))
    first, second = (read_attribute(node, name, default) for name, default in names)
    return float(first), float(second)  # type: ignore[arg-type]


def fix_noise(model: onnx.ModelProto, noise: Noise) -> onnx.ModelProto:
    """A copy of ``model`` whose random normal and uniform nodes give what ``noise`` says; everything else is as it was.

    Raises:
        ModelError: noise with a seed is asked for a node of a nested graph or function, whose size nobody knows.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    nested = [inner for node in fixed.graph.node for inner in _nested(node)]
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [
        *reversed(nested),
        *fixed.functions,
        fixed.graph,
    ]  # inner first
    for graph in graphs:
        nodes = [made for node in graph.node for made in (_fix_node(node, noise) if _is_fixable(node) else [node])]
        rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(rest)
    return fixed


def _is_fixable(node: onnx.NodeProto) -> bool:
    return node.op_type in FIXABLE and node.domain in {"", "ai.onnx"}


def _fix_node(node: onnx.NodeProto, noise: Noise) -> list[onnx.NodeProto]:
    name = node.output[0]
    if noise.seed is not None and name not in noise.values:
        raise ModelError(
            f"the size of the noise of {node.name or name!r} is not known, since it is in a branch, loop or function",
            "use --noise zero",
        )
    if node.op_type not in _LIKE:
        shape = read_attribute(node, "shape")
        kind = helper.tensor_dtype_to_np_dtype(int(read_attribute(node, "dtype", 1)))  # type: ignore[call-overload]
        value = noise.values.get(name, np.zeros(list(shape), kind))  # type: ignore[call-overload]
        return [helper.make_node("Constant", [], [name], node.name, value=numpy_helper.from_array(value, name))]
    parts = f"{name}/fixed", f"{name}/shape", f"{name}/expanded"
    dtype = read_attribute(node, "dtype")
    value = noise.values.get(name, np.zeros((), np.float32))
    made = [
        helper.make_node("Constant", [], [parts[0]], parts[0], value=numpy_helper.from_array(value, parts[0])),
        helper.make_node("Shape", [node.input[0]], [parts[1]], parts[1]),
        helper.make_node("Expand", [parts[0], parts[1]], [name], node.name),
    ]
    if noise.seed is None:  # the type is that of the node's attribute, else of what it resembles
        made[2].output[0] = parts[2]
        if dtype is None:
            made.append(helper.make_node("CastLike", [parts[2], node.input[0]], [name], f"{name}/type"))
        else:
            made.append(helper.make_node("Cast", [parts[2]], [name], f"{name}/type", to=dtype))
    return made
