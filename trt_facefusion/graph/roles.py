"""What every node is for: the vocabulary in which the precision rules are written."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import onnx

from trt_facefusion.graph.view import GraphView


class Role(str, enum.Enum):
    """The part a node plays in a generator."""

    FIRST_CONV = "first convolution"
    CONV = "convolution"
    HEAD_CONV = "output head"
    HEAD_ACTIVATION = "output activation"
    CONV_TRANSPOSE = "transposed convolution"
    LINEAR = "linear"
    STYLE_LINEAR = "style linear"
    ATTENTION_PRODUCT = "attention product"
    ATTENTION_LOGITS = "attention query/key"
    SOFTMAX = "softmax"
    NORMALISATION = "normalisation"
    STATISTICS = "normalisation statistics"
    STYLE = "style scale and shift"
    RESIDUAL_ADD = "residual add"
    CONCAT = "concatenation"
    RESIZE = "resize"
    POOL = "pooling"
    ACTIVATION = "activation"
    ELEMENTWISE = "elementwise"
    LAYOUT = "layout"
    OTHER = "other"


_NORMALISATIONS = {
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "BatchNormalization",
    "LpNormalization",
}
_ACTIVATIONS = {
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Sigmoid",
    "Tanh",
    "Elu",
    "Selu",
    "Gelu",
    "Softplus",
    "HardSigmoid",
    "HardSwish",
    "Mish",
    "Clip",
    "Erf",
}
_LAYOUT = {
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Split",
    "Expand",
    "Identity",
    "Pad",
    "Gather",
    "DepthToSpace",
    "SpaceToDepth",
    "Tile",
    "Cast",
}
_ELEMENTWISE = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Abs",
    "Neg",
    "Exp",
    "Log",
    "Min",
    "Max",
    "Where",
}
_STATISTICS = {
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL2",
    "Sqrt",
    "Reciprocal",
    "Pow",
    "GlobalAveragePool",
}
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def classify(view: GraphView) -> dict[str, Role]:
    """The role of every node that touches floats, by name."""
    vectors = _vector_tensors(view)
    statistics = _statistics_chains(view)
    heads, head_activations = _heads(view)
    query_key = _query_key(view)
    firsts = _first_convolutions(view)
    roles: dict[str, Role] = {}
    for node in view.float_nodes():
        if node.name in heads:
            roles[node.name] = Role.HEAD_CONV
        elif node.name in head_activations:
            roles[node.name] = Role.HEAD_ACTIVATION
        elif node.name in statistics:
            roles[node.name] = Role.STATISTICS
        elif node.name in query_key:
            roles[node.name] = Role.ATTENTION_LOGITS
        elif node.name in firsts:
            roles[node.name] = Role.FIRST_CONV
        else:
            roles[node.name] = _plain_role(view, node, vectors)
    return roles


def _plain_role(view: GraphView, node: onnx.NodeProto, vectors: set[str]) -> Role:
    op = node.op_type
    if op in {"Gemm", "MatMul"}:
        if view.weight(node) is None:
            return Role.ATTENTION_PRODUCT
        return Role.STYLE_LINEAR if node.output[0] in vectors else Role.LINEAR
    if op in _ELEMENTWISE:
        return _elementwise_role(view, node, vectors)
    direct = {"Conv": Role.CONV, "ConvTranspose": Role.CONV_TRANSPOSE, "Softmax": Role.SOFTMAX, "Concat": Role.CONCAT}
    direct |= {"Resize": Role.RESIZE, "Upsample": Role.RESIZE}
    direct |= dict.fromkeys(_NORMALISATIONS, Role.NORMALISATION)
    direct |= dict.fromkeys(_ACTIVATIONS, Role.ACTIVATION)
    direct |= dict.fromkeys(_LAYOUT, Role.LAYOUT)
    direct |= dict.fromkeys(("MaxPool", "AveragePool"), Role.POOL)
    return direct.get(op, Role.OTHER)


def _elementwise_role(view: GraphView, node: onnx.NodeProto, vectors: set[str]) -> Role:
    activations = view.activations(node)
    if len(activations) == 2:
        if any(name in vectors for name in activations) and node.output[0] not in vectors:
            return Role.STYLE
        shapes = {(view.shape(name) or ())[1:] for name in activations}  # the batch axis may bear any name
        if node.op_type == "Add" and len(shapes) == 1 and node.output[0] not in vectors:
            return Role.RESIDUAL_ADD
    return Role.ELEMENTWISE


def _vector_tensors(view: GraphView) -> set[str]:
    """Activations that hold one value per channel at most: embeddings, styles, pooled statistics.

    A tensor counts when all its axes beyond the second have size one, and no spatial tensor of the image went into it
    except through nothing at all: it must descend from inputs that are vectors themselves.
    """
    vectors = {n for n in view.input_names if _is_vector(view.shape(n))}
    for node in view.model.graph.node:
        inputs = view.activations(node)
        if inputs and all(name in vectors for name in inputs):
            vectors.update(node.output)
    return vectors


def _is_vector(shape: tuple[int | str, ...] | None) -> bool:
    return shape is not None and len(shape) >= 1 and all(size == 1 for size in shape[2:])


def _statistics_chains(view: GraphView) -> set[str]:
    """Nodes of hand-written normalisations: from the first ReduceMean of a tensor to the division by its deviation.

    Recognised by their end: a Sqrt (or Reciprocal, or Pow with exponent 0.5) that descends from a mean within a few
    elementwise steps. The whole connected chain between the means and that end is included.
    """
    found: set[str] = set()
    for node in view.model.graph.node:
        if node.op_type in {"Sqrt", "Reciprocal"} or _is_root(view, node):
            chain = _ancestors_up_to_mean(view, node)
            if chain:
                found |= chain
                found |= {c.name for c in view.consumers[node.output[0]] if c.op_type in {"Div", "Mul", "Reciprocal"}}
    return found


def _is_root(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type != "Pow" or not view.is_constant(node.input[1]):
        return False
    exponent = view.constant(node.input[1])
    return exponent.size == 1 and abs(float(exponent.reshape(-1)[0])) == 0.5


def _ancestors_up_to_mean(view: GraphView, node: onnx.NodeProto, depth: int = 6) -> set[str]:
    frontier, chain, means = [(node, 0)], {node.name}, False
    while frontier:
        current, distance = frontier.pop()
        means |= current.op_type.startswith("Reduce") or current.op_type == "GlobalAveragePool"
        for name in view.activations(current):
            parent = view.producer.get(name)
            wanted = parent is not None and (parent.op_type in _ELEMENTWISE or parent.op_type in _STATISTICS)
            if parent is not None and wanted and parent.name not in chain and distance < depth:
                chain.add(parent.name)
                frontier.append((parent, distance + 1))
    # An unbroken run of elementwise nodes may lead far up the network; only what touches a mean is kept.
    return {name for name in chain if _near_mean(view, view.nodes[name])} if means else set()


def _near_mean(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type in _STATISTICS:
        return True
    neighbours = [view.producer.get(name) for name in view.activations(node)]
    neighbours += [c for output in node.output for c in view.consumers[output]]
    return any(n is not None and n.op_type in _STATISTICS for n in neighbours)


def _heads(view: GraphView) -> tuple[set[str], set[str]]:
    """The last convolution or linear before each image output, and what lies between it and the output."""
    heads: set[str] = set()
    behind: set[str] = set()
    frontier: list[str] = [name for name in view.output_names if len(view.shape(name) or ()) == 4]
    seen: set[str] = set()
    while frontier:
        name = frontier.pop()
        node = view.producer.get(name)
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in _PRODUCTS:
            heads.add(node.name)
        elif node.op_type in _NORMALISATIONS | {"Concat", "Resize"} and behind:
            continue
        else:
            behind.add(node.name)
            frontier.extend(view.activations(node))
    return heads, behind


def _first_convolutions(view: GraphView) -> set[str]:
    """Convolutions that read an image input through nothing but elementwise and layout nodes."""
    found: set[str] = set()
    frontier: list[str] = [n for n in view.input_names if len(view.shape(n) or ()) == 4]
    seen: set[str] = set(frontier)
    while frontier:
        for node in view.consumers[frontier.pop()]:
            if node.op_type == "Conv":
                found.add(node.name)
            elif node.op_type in _ELEMENTWISE | _LAYOUT and len(view.activations(node)) == 1:
                new = [o for o in node.output if o not in seen]
                seen.update(new)
                frontier.extend(new)
    return found


def _query_key(view: GraphView) -> set[str]:
    """Convolutions and linears whose product becomes attention logits (the input of a Softmax)."""
    found: set[str] = set()
    for softmax in view.model.graph.node:
        if softmax.op_type == "Softmax":
            product = _first_upwards(view, [softmax.input[0]], {"MatMul"})
            if product:
                found |= {n.name for n in _first_upwards(view, product[0].input, _PRODUCTS - {"MatMul"})}
    return found


def _first_upwards(view: GraphView, names: Iterable[str], ops: set[str]) -> list[onnx.NodeProto]:
    """The nearest producers of the given kinds, looking through layout and elementwise nodes only."""
    result: list[onnx.NodeProto] = []
    frontier = list(names)
    seen: set[str] = set()
    while frontier:
        node = view.producer.get(frontier.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in ops:
            result.append(node)
        elif node.op_type in _ELEMENTWISE | _LAYOUT | {"Softmax"} and node.op_type != "Softmax":
            frontier.extend(view.activations(node))
    return result
