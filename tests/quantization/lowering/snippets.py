"""One small piece of a network for every operator that generators use: [1,4,8,8] in, [1,4,8,8] out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from nets import Net
from onnx import TensorProto

SHAPE = (1, 4, 8, 8)
Snippet = Callable[[Net, str], str]
SNIPPETS: dict[str, Snippet] = {}


def snippet(function: Snippet) -> Snippet:
    SNIPPETS[function.__name__] = function
    return function


def ints(net: Net, *values: int) -> str:
    return net.const(list(values), np.int64)


def weight(net: Net, *shape: int) -> str:
    return net.const(net.rng.normal(0, 0.3, shape))


def back(net: Net, x: str) -> str:
    """[1,4,8,8] from any tensor of 256 elements."""
    return net.op("Reshape", x, ints(net, *SHAPE))


def gated(net: Net, x: str, small: str) -> str:
    """``x`` times something that broadcasts."""
    return net.op("Mul", x, small)


PLAIN = [
    "Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Hardmax",
    "Identity", "LeakyRelu", "LogSoftmax", "LpNormalization", "Mish", "Neg", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Shrink", "Atan",
]  # fmt: skip


def _plain(op: str) -> Snippet:
    return lambda net, x: net.op(op, x)


SNIPPETS |= {op: _plain(op) for op in PLAIN}
POOLS = ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]
SNIPPETS |= {op: (lambda net, x, op=op: gated(net, x, net.op(op, x))) for op in POOLS}
REDUCTIONS = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Sum", "SumSquare", "Prod"]
SNIPPETS |= {
    f"Reduce{kind}": (lambda net, x, kind=kind: gated(net, x, net.op(f"Reduce{kind}", x, ints(net, 2, 3))))
    for kind in REDUCTIONS
}
SNIPPETS |= {
    f"Reduce{kind} to a scalar": (
        lambda net, x, kind=kind: net.op("Div", x, net.op(f"Reduce{kind}", net.op("Abs", x), keepdims=0))
    )
    for kind in ("Max", "Mean", "L2")
}


@snippet
def empty_bias(net: Net, x: str) -> str:
    return net.op("Conv", x, weight(net, 4, 4, 3, 3), "", pads=[1] * 4)


@snippet
def computed_bias(net: Net, x: str) -> str:
    bias = net.op("ReduceMean", x, ints(net, 0, 2, 3), keepdims=0)
    return net.op("Conv", x, weight(net, 4, 4, 3, 3), bias, pads=[1] * 4)


@snippet
def computed_weights(net: Net, x: str) -> str:
    return net.op("Conv", x, net.op("Add", weight(net, 4, 4, 1, 1), net.op("ReduceMean", x)))


@snippet
def grouped(net: Net, x: str) -> str:
    return net.conv(x, 4, 4, group=2)


@snippet
def depthwise(net: Net, x: str) -> str:
    return net.conv(x, 4, 4, group=4)


@snippet
def same_padding(net: Net, x: str) -> str:
    return net.op("Conv", x, weight(net, 4, 4, 3, 3), auto_pad="SAME_UPPER")


@snippet
def transposed(net: Net, x: str) -> str:
    return net.op(
        "ConvTranspose",
        net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]),
        weight(net, 4, 4, 2, 2),
        strides=[2, 2],
    )


@snippet
def conv_1d(net: Net, x: str) -> str:
    flat = net.op("Reshape", x, ints(net, 1, 4, 64))
    return back(net, net.op("Conv", flat, weight(net, 4, 4, 3), weight(net, 4), pads=[1, 1]))


@snippet
def conv_3d(net: Net, x: str) -> str:
    cube = net.op("Reshape", x, ints(net, 1, 4, 4, 4, 4))
    return back(net, net.op("Conv", cube, weight(net, 4, 4, 3, 3, 3), weight(net, 4), pads=[1] * 6))


@snippet
def linear(net: Net, x: str) -> str:
    return back(net, net.linear(net.op("Flatten", x), 256, 256))


@snippet
def scaled_linear(net: Net, x: str) -> str:
    flat = net.op("Flatten", x)
    return back(net, net.op("Gemm", flat, weight(net, 256, 256), weight(net, 1, 256), alpha=0.1, beta=0.5))


@snippet
def linear_without_a_bias(net: Net, x: str) -> str:
    return net.op("MatMul", x, weight(net, 8, 8))


@snippet
def batched_weights(net: Net, x: str) -> str:
    return net.op("MatMul", x, weight(net, 4, 8, 8))


@snippet
def weights_on_the_left(net: Net, x: str) -> str:
    return net.op("MatMul", weight(net, 8, 8), x)


@snippet
def attention_with_a_mask(net: Net, x: str) -> str:
    query, key, value = (net.conv(x, 4, 4, 1) for _ in range(3))
    logits = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
    mask = net.const(np.triu(np.full((8, 8), -np.inf), 1))
    return net.op("MatMul", net.op("Softmax", net.op("Add", logits, mask)), value)


@snippet
def attention_with_the_lowest_float(net: Net, x: str) -> str:
    mask = net.const(np.triu(np.full((1, 1, 8, 8), np.finfo(np.float32).min), 1))
    return net.op("Softmax", net.op("Add", x, mask))


@snippet
def masked_by_where(net: Net, x: str) -> str:
    lower = net.const(np.tril(np.ones((8, 8))) > 0, np.bool_)
    return net.op("Softmax", net.op("Where", lower, x, net.const(-np.inf)))


@snippet
def norms_with_constants(net: Net, x: str) -> str:
    x = net.op("BatchNormalization", x, *(net.const(np.ones(4)) for _ in range(4)))
    x = net.op("InstanceNormalization", x, net.const(np.ones(4)), net.const(np.zeros(4)))
    return net.op("LayerNormalization", x, net.const(np.ones(8)), net.const(np.zeros(8)))


@snippet
def group_norm(net: Net, x: str) -> str:
    return net.op("GroupNormalization", x, net.const(np.ones(2)), net.const(np.zeros(2)), num_groups=2)


@snippet
def layer_norm_statistics(net: Net, x: str) -> str:
    y = net.op("LayerNormalization", x, net.const(np.ones(8)), outputs=3)
    return net.op("Add", y, net.op("Mul", f"{y}.1", f"{y}.2"))


@snippet
def einsum(net: Net, x: str) -> str:
    return net.op("Einsum", x, weight(net, 8, 8), equation="nchw,wk->nchk")


@snippet
def gathers(net: Net, x: str) -> str:
    x = net.op("GatherElements", x, net.const(np.zeros(SHAPE), np.int64), axis=3)
    x = net.op("Gather", x, ints(net, 3, 2, 1, 0), axis=1)
    return net.op("Unsqueeze", net.op("GatherND", x, net.const([[0]], np.int64)), ints(net, 0)) and x


@snippet
def scatters(net: Net, x: str) -> str:
    x = net.op("ScatterND", x, net.const([[0, 1]], np.int64), net.const(np.ones((1, 8, 8))))
    return net.op("ScatterElements", x, net.const(np.zeros((1, 1, 1, 1)), np.int64), net.const(np.ones((1, 1, 1, 1))))


@snippet
def grid_sample(net: Net, x: str) -> str:
    return net.op("GridSample", x, net.const(net.rng.uniform(-1, 1, (1, 8, 8, 2))), align_corners=1)


@snippet
def computed_grid(net: Net, x: str) -> str:
    flow = net.op("Slice", net.op("Tanh", x), ints(net, 0), ints(net, 2), ints(net, 1))
    return net.op("GridSample", x, net.op("Transpose", flow, perm=[0, 2, 3, 1]))


@snippet
def cumulative(net: Net, x: str) -> str:
    return net.op("Trilu", net.op("CumSum", x, net.const(3, np.int64)), net.const(1, np.int64), upper=0)


@snippet
def comparisons(net: Net, x: str) -> str:
    positive = net.op("And", net.op("Greater", x, net.const(0.0)), net.op("Not", net.op("IsNaN", x)))
    return net.op("Where", positive, x, net.op("Mul", x, net.const(0.1)))


@snippet
def computed_limits(net: Net, x: str) -> str:
    return net.op("Clip", x, net.op("ReduceMin", x, keepdims=0), net.const(0.5))


@snippet
def clip_without_a_lower_limit(net: Net, x: str) -> str:
    return net.op("Clip", x, "", net.const(0.5))


@snippet
def codebook(net: Net, x: str) -> str:
    tokens = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), ints(net, 64, 4))
    codes = weight(net, 10, 4)
    products = net.op("MatMul", tokens, net.op("Transpose", codes, perm=[1, 0]))
    entries = net.op("Gather", codes, net.op("ArgMin", products, axis=1, keepdims=0))
    return net.op("Transpose", net.op("Reshape", entries, ints(net, 1, 8, 8, 4)), perm=[0, 3, 1, 2])


@snippet
def one_hot(net: Net, x: str) -> str:
    hot = net.op("OneHot", net.op("ArgMax", x, axis=3, keepdims=0), net.const(8, np.int64), net.const([0.0, 1.0]))
    return net.op("Add", x, hot)


@snippet
def largest(net: Net, x: str) -> str:
    top = net.op("TopK", net.op("Flatten", x), ints(net, 4), outputs=2)
    return gated(net, x, net.op("Reshape", top, ints(net, 1, 4, 1, 1)))


@snippet
def sizes_in_floats(net: Net, x: str) -> str:
    sizes = net.op("Slice", net.op("Shape", x), ints(net, 2), ints(net, 4))
    half = net.op("Floor", net.op("Mul", net.op("Cast", sizes, to=TensorProto.FLOAT), net.const(0.55)))
    spatial = net.op("Slice", net.op("Shape", x), ints(net, 0), ints(net, 2))
    smaller = net.op("Concat", spatial, net.op("Cast", half, to=TensorProto.INT64), axis=0)
    return net.op("Resize", net.op("Resize", x, "", "", smaller, mode="linear"), "", "", net.op("Shape", x))


@snippet
def scales_in_floats(net: Net, x: str) -> str:
    size = net.op("Cast", net.op("Shape", x), to=TensorProto.FLOAT)
    one = net.op("Div", size, net.op("Cast", net.op("Shape", net.op("Relu", x)), to=TensorProto.FLOAT))
    return net.op("Resize", x, "", one, mode="linear")


@snippet
def positions(net: Net, x: str) -> str:
    height = net.op("Cast", net.op("Gather", net.op("Shape", x), net.const(2, np.int64)), to=TensorProto.FLOAT)
    return net.op("Add", x, net.op("Div", net.op("Range", net.const(0.0), height, net.const(1.0)), height))


@snippet
def layouts(net: Net, x: str) -> str:
    first = net.op("Split", x, ints(net, 2, 2), axis=1, outputs=2)
    x = net.op("Concat", f"{first}.1", first, axis=1)
    x = net.op("DepthToSpace", net.op("SpaceToDepth", x, blocksize=2), blocksize=2, mode="CRD")
    x = net.op("Slice", net.op("Tile", x, ints(net, 1, 1, 2, 1)), ints(net, 8), ints(net, 16), ints(net, 2))
    return net.op("Expand", net.op("Squeeze", net.op("Unsqueeze", x, ints(net, 0)), ints(net, 0)), ints(net, *SHAPE))


@snippet
def pads(net: Net, x: str) -> str:
    x = net.op("Pad", x, ints(net, 0, 0, 1, 1, 0, 0, 1, 1), net.const(0.5))
    x = net.op("Pad", x, ints(net, 1, 1, 1, 1), net.op("ReduceMax", x, keepdims=0), ints(net, 2, 3))
    return net.op("Slice", x, ints(net, 2, 2), ints(net, 10, 10), ints(net, 2, 3))


@snippet
def casts(net: Net, x: str) -> str:
    for to in (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT):
        x = net.op("Cast", x, to=to)
    return net.op("CastLike", net.op("Cast", net.op("Mul", x, net.const(9.0)), to=TensorProto.INT64), x)


@snippet
def made_tensors(net: Net, x: str) -> str:
    zeros = net.op("ConstantOfShape", net.op("Shape", x))
    return net.op("Add", net.op("Add", x, zeros), net.op("EyeLike", net.op("Reshape", x, ints(net, 32, 8))) and zeros)


@snippet
def pools(net: Net, x: str) -> str:
    best = net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, outputs=1)
    mean = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    return net.op("Sum", best, mean, net.op("LRN", x, size=3), net.op("LpPool", x, kernel_shape=[1, 1]))


@snippet
def recurrent(net: Net, x: str) -> str:
    rows = net.op("Reshape", x, ints(net, 32, 1, 8))
    y = net.op("LSTM", rows, weight(net, 1, 32, 8), weight(net, 1, 32, 8), hidden_size=8)
    y = net.op("GRU", net.op("Squeeze", y, ints(net, 1)), weight(net, 1, 24, 8), weight(net, 1, 24, 8), hidden_size=8)
    return back(net, y)


@snippet
def elementwise(net: Net, x: str) -> str:
    x = net.op("PRelu", net.op("Max", x, net.const(-1.0)), net.const(np.full((4, 1, 1), 0.2)))
    x = net.op("Pow", net.op("Abs", net.op("Min", x, net.const(1.0))), net.const(2, np.int64))
    x = net.op("Sqrt", net.op("Reciprocal", net.op("Add", x, net.const(1.0))))
    return net.op("Log", net.op("Mean", x, net.op("Mod", x, net.const(0.3), fmod=1)))


@snippet
def roi_align(net: Net, x: str) -> str:
    boxes = net.const([[0.0, 0.0, 7.0, 7.0]])
    return net.op("RoiAlign", x, boxes, ints(net, 0), output_height=8, output_width=8)


@snippet
def columns(net: Net, x: str) -> str:
    flat = net.op("Reshape", x, ints(net, 1, 4, 64))
    return net.op("Col2Im", flat, ints(net, 8, 8), ints(net, 1, 1))


@snippet
def batch_of_one(net: Net, x: str) -> str:
    return net.op("ReverseSequence", x, ints(net, 1), batch_axis=0, time_axis=1)
