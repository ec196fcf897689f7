"""What every node is for: the vocabulary in which the precision rules are written."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import onnx

from trt_facefusion.model.graph.view import GraphView


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


_NORMALISATIONS = frozenset(
    {
        "InstanceNormalization", "LayerNormalization", "GroupNormalization", "BatchNormalization",
        "LpNormalization", "MeanVarianceNormalization", "RMSNormalization",
    }
)  # fmt: skip
_ACTIVATIONS = frozenset(
    {
        "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Gelu", "Softplus",
        "HardSigmoid", "HardSwish", "Mish", "Swish", "Clip", "Erf",
    }
)  # fmt: skip
_LAYOUT = frozenset(
    {
        "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand", "Identity",
        "Pad", "Gather", "DepthToSpace", "SpaceToDepth", "Tile", "Cast",
    }
)  # fmt: skip
_ELEMENTWISE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Abs", "Neg", "Exp", "Log", "Min", "Max",
        "Where", "Sum", "Mean",
    }
)  # fmt: skip
_POOLS = frozenset({"MaxPool", "AveragePool"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "GlobalAveragePool"})
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_FEW_CHANNELS = frozenset({1, 3, 4, 6})

_BY_OP: dict[str, Role] = {
    "Conv": Role.CONV,
    "ConvTranspose": Role.CONV_TRANSPOSE,
    "Softmax": Role.SOFTMAX,
    "Concat": Role.CONCAT,
    "Resize": Role.RESIZE,
    **dict.fromkeys(_NORMALISATIONS, Role.NORMALISATION),
    **dict.fromkeys(_ACTIVATIONS, Role.ACTIVATION),
    **dict.fromkeys(_LAYOUT, Role.LAYOUT),
    **dict.fromkeys(_POOLS, Role.POOL),
}


def classify(view: GraphView) -> dict[str, Role]:
    """The role of every node that touches floats, by name."""
    vectors = _find_vectors(view)
    heads, head_activations = _find_heads(view)
    special = (  # a node that is several things at once gets the first
        (heads, Role.HEAD_CONV),
        (_find_statistics(view), Role.STATISTICS),
        (head_activations, Role.HEAD_ACTIVATION),
        (_find_query_key(view), Role.ATTENTION_LOGITS),
        (_find_first_convolutions(view), Role.FIRST_CONV),
    )
    return {
        node.name: next((role for names, role in special if node.name in names), None)
        or _find_plain_role(view, node, vectors)
        for node in view.float_nodes()
    }


def _find_plain_role(view: GraphView, node: onnx.NodeProto, vectors: set[str]) -> Role:
    if node.op_type in {"Gemm", "MatMul"}:
        if view.weight(node) is None:
            return Role.ATTENTION_PRODUCT
        return Role.STYLE_LINEAR if node.output[0] in vectors else Role.LINEAR
    if node.op_type in _ELEMENTWISE:
        return _find_elementwise_role(view, node, vectors)
    return _BY_OP.get(node.op_type, Role.OTHER)


def _find_elementwise_role(view: GraphView, node: onnx.NodeProto, vectors: set[str]) -> Role:
    activations = view.activations(node)
    if len(activations) == 2 and node.output[0] not in vectors:
        if any(name in vectors for name in activations):
            return Role.STYLE
        shapes = {(view.shape(name) or ())[1:] for name in activations}  # the batch axis may bear any name
        if node.op_type == "Add" and len(shapes) == 1:
            return Role.RESIDUAL_ADD
    return Role.ELEMENTWISE


def _find_vectors(view: GraphView) -> set[str]:
    """Activations that hold one value per channel at most (embeddings, styles) and descend only from inputs that do.

    A vector that grows spatial axes (a latent code becomes a feature map) stops being one.
    """
    vectors = {name for name in view.input_names if _is_vector(view.shape(name))}
    for node in view.model.graph.node:
        inputs = view.activations(node)
        if inputs and all(name in vectors for name in inputs):
            vectors.update(name for name in node.output if _is_vector(view.shape(name)))
    return vectors


def _is_vector(shape: tuple[int | str, ...] | None) -> bool:
    return shape is not None and len(shape) >= 1 and all(size == 1 for size in shape[2:])


def _holds_pixels(shape: tuple[int | str, ...] | None) -> bool:
    """Whether a tensor at the border may be an image: a batch of them, or a single one of few channels."""
    if shape is None or len(shape) not in {3, 4}:
        return False
    return len(shape) == 4 or not {shape[0], shape[2]}.isdisjoint(_FEW_CHANNELS)


def _find_statistics(view: GraphView) -> set[str]:
    """Nodes of hand-written normalisations, from the first reduction of a tensor to the division by its deviation.

    Found from their end: a root of something reduced. From there up to the reductions, from a reduction on through the
    square and the centring (``x - mean(x)``) that it reads, and down to what divides by the root.
    """
    reduced = _find_reduced(view)
    chain: set[str] = set()
    for node in view.model.graph.node:
        if (node.op_type in {"Sqrt", "ReduceL2"} or _is_root(view, node)) and node.output[0] in reduced:
            _climb(view, node, reduced, chain)
            _descend(view, node, reduced, chain)
    return chain


def _find_reduced(view: GraphView) -> dict[str, bool]:
    """Outputs of reductions, and what is computed from nothing but those.

    False for the norms of modulated weights: they scale what is no larger than its input, as a style does.
    """
    reduced: dict[str, bool] = {}
    for node in view.model.graph.node:
        inputs = view.activations(node)
        follows = node.op_type in _ELEMENTWISE | _LAYOUT | {"Clip"} and inputs and all(n in reduced for n in inputs)
        if node.op_type in _REDUCTIONS:
            reduced.update(dict.fromkeys(node.output, True))
        elif _sums_squares(view, node):
            reduced.update(dict.fromkeys(node.output, False))
        elif follows:
            reduced.update(dict.fromkeys(node.output, any(reduced[name] for name in inputs)))
    return reduced


def _sums_squares(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether the node multiplies squares with constants that are nowhere negative (`modulated`)."""
    weight = view.weight(node) if node.op_type == "MatMul" else None
    square = view.producer.get(node.input[0])
    if weight is None or square is None or not _is_square(view, square):
        return False
    return bool((view.constant(weight) >= 0).all())


def _climb(view: GraphView, node: onnx.NodeProto, reduced: dict[str, bool], chain: set[str]) -> None:
    """Add ``node``, all of its ancestors that are reduced, and the square and centring that a reduction reads."""
    if node.name in chain:
        return
    chain.add(node.name)
    for name in view.activations(node):
        parent = view.producer.get(name)
        if parent is not None and (name in reduced or _is_square(view, parent) or _is_centring(view, parent, reduced)):
            _climb(view, parent, reduced, chain)


def _descend(view: GraphView, node: onnx.NodeProto, reduced: dict[str, bool], chain: set[str]) -> None:
    """Add what divides by the root ``node``, however it is written, and the centring of what is divided."""
    for consumer in view.consumers[node.output[0]]:
        if consumer.op_type not in _ELEMENTWISE | _LAYOUT | {"Clip"}:
            continue
        if consumer.output[0] in reduced:
            chain.add(consumer.name)
            _descend(view, consumer, reduced, chain)
        elif consumer.op_type in {"Div", "Mul"} and reduced[node.output[0]]:
            _climb(view, consumer, reduced, chain)


def _is_root(view: GraphView, node: onnx.NodeProto) -> bool:
    return abs(_read_exponent(view, node)) == 0.5


def _is_square(view: GraphView, node: onnx.NodeProto) -> bool:
    return (node.op_type == "Mul" and node.input[0] == node.input[1]) or _read_exponent(view, node) == 2


def _is_centring(view: GraphView, node: onnx.NodeProto, reduced: dict[str, bool]) -> bool:
    return node.op_type == "Sub" and (node.input[0] in reduced) != (node.input[1] in reduced)


def _read_exponent(view: GraphView, node: onnx.NodeProto) -> float:
    if node.op_type != "Pow" or not view.is_constant(node.input[1]) or view.constant(node.input[1]).size != 1:
        return 0.0
    return float(view.constant(node.input[1]).reshape(-1)[0])


def _find_heads(view: GraphView) -> tuple[set[str], set[str]]:
    """The last convolutions or linears before each image output, and what lies between them and the output."""
    heads: set[str] = set()
    behind: set[str] = set()
    frontier = [name for name in view.output_names if _holds_pixels(view.shape(name))]
    while frontier:
        node = view.producer.get(frontier.pop())
        if node is None or node.name in heads | behind:
            continue
        if node.op_type in _PRODUCTS:
            heads.add(node.name)
        else:
            behind.add(node.name)
            frontier.extend(name for name in view.activations(node) if not _is_vector(view.shape(name)))
    return heads, behind


def _find_first_convolutions(view: GraphView) -> set[str]:
    """Convolutions that read nothing but image inputs, scaled, resized or joined."""
    found: set[str] = set()
    raw = {name for name in view.input_names if _holds_pixels(view.shape(name))}
    for node in view.model.graph.node:
        inputs = view.activations(node)
        if node.op_type == "Cast" and node.input[0] in raw:  # pixels come as integers, too
            inputs = [node.input[0]]
        if inputs and raw.issuperset(inputs):
            if node.op_type == "Conv":
                found.add(node.name)
            elif node.op_type in _ELEMENTWISE | _LAYOUT | {"Concat", "Resize", "AveragePool"}:
                raw.update(node.output)
    return found


def _find_query_key(view: GraphView) -> set[str]:
    """Convolutions and linears whose product becomes attention logits (the input of a Softmax)."""
    found: set[str] = set()
    for softmax in view.model.graph.node:
        if softmax.op_type == "Softmax":
            for product in _find_nearest_products(view, [softmax.input[0]]):
                if product.op_type == "MatMul" and view.weight(product) is None:
                    found |= {node.name for node in _find_nearest_products(view, product.input)}
    return found


def _find_nearest_products(view: GraphView, names: Iterable[str]) -> list[onnx.NodeProto]:
    """The nearest producers that multiply matrices, looking through layout, elementwise and normalisation nodes."""
    result: list[onnx.NodeProto] = []
    frontier = list(names)
    seen: set[str] = set()
    while frontier:
        node = view.producer.get(frontier.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in _PRODUCTS:
            result.append(node)
        elif node.op_type in _ELEMENTWISE | _LAYOUT | _NORMALISATIONS:
            frontier.extend(view.activations(node))
    return result
