"""What scales of channels may pass: for every operator, how it ties channels, and which of its constants take them in.

An operator is passed in one of four ways:

* what it gives is scaled like what it takes: a rectifier, a resize, pooling, padding with zeros or with what is there;
* all operands and the result are scaled alike: an addition, a maximum; a concatenation channel by channel;
* a constant between takes in any difference: the weights of a convolution, a constant factor;
* its result is scaled by constants of its own, and what it reads has to be as it is: a normalisation.

Everything else sees the scale, so it fixes the channels that it reads and gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from trt_facefusion.quantization.folding import arithmetic, moves
from trt_facefusion.quantization.folding.constants import ConstantScaler
from trt_facefusion.quantization.folding.ties import ScaleTies, describe_node

Tie = Callable[[ScaleTies, onnx.NodeProto], bool]
"""Puts the channels of a node's result into groups. False where the node, as it is, cannot be passed."""
Scale = Callable[[ConstantScaler, onnx.NodeProto], None]
"""Scales a node's constants, so that it gives scaled channels where it reads scaled ones."""


@dataclass(frozen=True)
class Passing:
    """How an operator is passed by scales; without ``scale`` it has no constant that changes."""

    tie: Tie
    scale: Scale | None = None


def _list(passing: Passing, names: Sequence[str]) -> dict[str, Passing]:
    return dict.fromkeys(names, passing)


_HOMOGENEOUS = (
    "Relu", "LeakyRelu", "Identity", "Dropout", "Abs", "Neg", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool", "Expand", "Tile",
)  # fmt: skip

OPERATORS: dict[str, Passing] = {
    **_list(Passing(moves.share_same_rank), _HOMOGENEOUS),
    **_list(
        Passing(moves.tie_reduction), ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
    ),
    **_list(Passing(moves.tie_reshape), ("Reshape", "Flatten", "Squeeze", "Unsqueeze")),
    "Resize": Passing(moves.tie_resize),
    "Pad": Passing(moves.tie_pad),
    "PRelu": Passing(moves.tie_prelu),
    "Clip": Passing(moves.tie_clip),
    "Transpose": Passing(moves.tie_transpose),
    "Concat": Passing(moves.tie_concat),
    "Split": Passing(moves.tie_split),
    "Slice": Passing(moves.tie_slice),
    "DepthToSpace": Passing(moves.tie_depth_to_space),
    "SpaceToDepth": Passing(moves.tie_space_to_depth),
    **_list(Passing(arithmetic.tie_alike, arithmetic.scale_alike), ("Add", "Sub", "Sum", "Mean", "Max", "Min")),
    "Where": Passing(arithmetic.tie_where, arithmetic.scale_alike),
    **_list(Passing(arithmetic.tie_product, arithmetic.scale_product), ("Mul", "Div")),
    **_list(Passing(arithmetic.tie_weights, arithmetic.scale_weights), ("Conv", "ConvTranspose", "Gemm", "MatMul")),
    "InstanceNormalization": Passing(arithmetic.tie_normalisation, arithmetic.scale_normalisation),
    "BatchNormalization": Passing(arithmetic.tie_batch_norm, arithmetic.scale_batch_norm),
}


def tie_node(ties: ScaleTies, node: onnx.NodeProto) -> None:
    """Put the channels of what ``node`` gives into groups, and join or fix those that it reads."""
    view = ties.view
    floats = [name for name in node.output if name and view.is_float(name)]
    passing = OPERATORS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    if passing is not None and len(floats) == len([name for name in node.output if name]) and passing.tie(ties, node):
        return
    for name in floats:
        ties.open(name)
    ties.fix(view.activations(node), f"{describe_node(node)} sees the scale")
    ties.fix(floats, f"{describe_node(node)} makes it")
