"""Small graphs over the operators of face generators, at opsets from 7 to 21 at which they are defined differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from nets import Net, run
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.model.graph import prepare

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
Build = Callable[[Net, int], str]


@dataclass(frozen=True)
class Small:
    """One graph; ``since`` are the opsets that it is tried at, ``shape`` that of ``x`` without batch axis."""

    name: str
    build: Build
    since: tuple[int, ...]
    shape: tuple[int, ...] = (4, 8, 10)


GRAPHS: list[Small] = []


def small(*opsets: int, shape: tuple[int, ...] = (4, 8, 10)) -> Callable[[Build], Build]:
    """Register a graph for ``opsets`` (all of 7 to 21 where none is given)."""

    def add(build: Build) -> Build:
        GRAPHS.append(Small(build.__name__, build, opsets or OPSETS, shape))
        return build

    return add


def each(name: str, opsets: tuple[int, ...], build: Build, shape: tuple[int, ...] = (4, 8, 10)) -> None:
    GRAPHS.append(Small(name, build, opsets, shape))


def since(first: int, last: int = 21) -> tuple[int, ...]:
    return tuple(o for o in OPSETS if first <= o <= last)


@dataclass(frozen=True)
class Trial:
    """One graph at one opset; ``shape`` is that of ``x`` without batch axis."""

    name: str
    opset: int
    model: onnx.ModelProto
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} at opset {self.opset}"


def trials(name: str = "") -> Iterator[Trial]:
    """Every graph (or those of one name) at every opset that it is tried at."""
    for one in GRAPHS:
        for opset in one.since if name in {"", one.name} else ():
            net = Net()
            y = one.build(net, opset)
            graph = helper.make_graph(
                net.nodes,
                one.name,
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *one.shape])],
                [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
                net.weights,
            )
            ir = min(9, max(4, opset - 5))
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
            yield Trial(one.name, opset, model, one.shape)


def difference(trial: Trial) -> float:
    """Largest difference that preparing makes to any output in onnxruntime, in parts of the largest value (or of 1)."""
    x = np.random.default_rng(1).normal(size=(2, *trial.shape)).astype(np.float32)
    expected = run(trial.model, {"x": x})
    outputs = run(prepare(trial.model, {"x": trial.shape}).model, {"x": x})
    assert {k: v.shape for k, v in expected.items()} == {k: v.shape for k, v in outputs.items()}, trial
    return max(float(np.abs(v - outputs[k]).max() / max(1, np.abs(v).max())) for k, v in expected.items())


def ints(net: Net, *values: int) -> str:
    return net.const(values, np.int64)


def resize_to_sizes(net: Net, mode: str) -> str:
    head = net.op("Slice", net.op("Shape", "x"), ints(net, 0), ints(net, 2))
    sizes = net.op("Concat", head, ints(net, 13, 9), axis=0)
    return net.op("Resize", "x", net.const([]), net.const([]), sizes, mode=mode)


# --- sizes -----------------------------------------------------------------------------------------------------------

for mode in ("nearest", "linear"):
    for scales in ((1, 1, 2, 2), (1, 1, 1.5, 2.5), (1, 1, 2, 3)):
        each(
            f"upsample_attribute_{mode}_{scales[2]}_{scales[3]}", (7, 8),
            lambda net, o, m=mode, s=scales: net.op("Upsample", "x", scales=[float(v) for v in s], mode=m),
        )  # fmt: skip
        each(
            f"upsample_{mode}_{scales[2]}_{scales[3]}", (9,),
            lambda net, o, m=mode, s=scales: net.op("Upsample", "x", net.const(s), mode=m),
        )  # fmt: skip
        each(
            f"resize_{mode}_{scales[2]}_{scales[3]}", (10,),
            lambda net, o, m=mode, s=scales: net.op("Resize", "x", net.const(s), mode=m),
        )  # fmt: skip
    each(
        f"resize_down_{mode}", (10,), lambda net, o, m=mode: net.op("Resize", "x", net.const([1, 1, 0.5, 0.65]), mode=m)
    )
    for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
        each(
            f"resize_{mode}_{coordinates}", (11, 13, 18, 19),
            lambda net, o, m=mode, c=coordinates: net.op(
                "Resize", "x", net.const([]), net.const([1, 1, 1.5, 2.0]), mode=m, coordinate_transformation_mode=c,
                nearest_mode="floor",
            ),
        )  # fmt: skip
    each(f"resize_sizes_{mode}", (11, 13, 17, 18), lambda net, o, m=mode: resize_to_sizes(net, m))


@small(11, 13, 18)
def resize_cubic(net: Net, opset: int) -> str:
    return net.op("Resize", "x", net.const([]), net.const([1, 1, 2, 2]), mode="cubic", cubic_coeff_a=-0.5)


@small(10)
def resize_of_computed_scales(net: Net, opset: int) -> str:
    ratio = net.op("Div", net.const([1, 1, 16, 20]), net.const([1, 1, 8, 10]))
    return net.op("Resize", "x", ratio, mode="linear")


# --- softmax and its kin ---------------------------------------------------------------------------------------------

for kind in ("Softmax", "LogSoftmax", "Hardmax"):
    each(f"{kind}_default", (7, 11, 12, 13, 17), lambda net, o, k=kind: net.op(k, "x"))
    for axis in (0, 1, 2, 3, -1, -2):
        if axis >= 0:
            each(f"{kind}_{axis}", (8, 11, 13), lambda net, o, k=kind, a=axis: net.op(k, "x", axis=a))
        else:
            each(f"{kind}_{axis}", (11, 12, 13), lambda net, o, k=kind, a=axis: net.op(k, "x", axis=a))
    each(f"{kind}_of_a_matrix", (8, 12, 13), lambda net, o, k=kind: net.op(k, net.op("Flatten", "x")))

# --- normalisations --------------------------------------------------------------------------------------------------


def _batch_norm(net: Net, **attributes: object) -> str:
    values = [net.const(net.rng.uniform(0.5, 1.5, 4)) for _ in range(4)]
    return net.op("BatchNormalization", net.conv("x", 4, 4), *values, **attributes)


each("batch_norm", (7, 8, 9, 13, 14, 15), lambda net, o: _batch_norm(net))
each("batch_norm_epsilon", (7, 9, 14, 15), lambda net, o: _batch_norm(net, epsilon=0.1, momentum=0.5))
each("batch_norm_spatial", (7, 8), lambda net, o: _batch_norm(net, spatial=1))


@small(7, 11, 18, 21)
def instance_norm(net: Net, opset: int) -> str:
    return net.op("InstanceNormalization", "x", net.const([1, 2, 3, 4]), net.const([0, 1, 0, 1]), epsilon=1e-3)


@small(18, 19, 20, shape=(4, 8, 10))
def group_norm_a_value_for_each_group(net: Net, opset: int) -> str:
    return net.op("GroupNormalization", "x", net.const([1, 2]), net.const([0, 1]), num_groups=2)


@small(21)
def group_norm_a_value_for_each_channel(net: Net, opset: int) -> str:
    return net.op("GroupNormalization", "x", net.const([1, 2, 3, 4]), net.const([0, 1, 2, 3]), num_groups=2)


@small(17, 18, 21)
def layer_norm(net: Net, opset: int) -> str:
    return net.op("LayerNormalization", "x", net.const(np.arange(10)), net.const(np.ones(10)), axis=-1)


@small(7, 13, 20)
def local_response(net: Net, opset: int) -> str:
    return net.op("LRN", "x", size=3, alpha=0.1, bias=1.5)


@small(7, 11, 13, 18)
def lp_normalisation(net: Net, opset: int) -> str:
    return net.op("LpNormalization", "x", axis=1, p=2)


@small(9, 13)
def mean_variance(net: Net, opset: int) -> str:
    return net.op("MeanVarianceNormalization", "x")


# --- reductions ------------------------------------------------------------------------------------------------------

for kind in (
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL2",
    "ReduceL1",
    "ReduceSumSquare",
    "ReduceProd",
    "ReduceLogSumExp",
):
    newer = 13 if kind == "ReduceSum" else 18

    def _reduce(
        net: Net, opset: int, kind: str = kind, newer: int = newer, axes: tuple[int, ...] = (2, 3), keep: int = 1
    ) -> str:
        if not axes:
            return net.op("Mul", "x", net.op(kind, "x", keepdims=keep))
        if opset >= newer:
            return net.op(kind, "x", ints(net, *axes), keepdims=keep)
        return net.op(kind, "x", axes=list(axes), keepdims=keep)

    each(kind, (7, 11, 12, 13, 17, 18), _reduce)
    each(f"{kind}_without_axes", (8, 13, 18), lambda net, o, f=_reduce: f(net, o, axes=(), keep=0))
    each(f"{kind}_from_behind", (11, 13, 18), lambda net, o, f=_reduce: f(net, o, axes=(-1,), keep=0))

# --- pads, slices, axes ----------------------------------------------------------------------------------------------

for mode in ("constant", "reflect", "edge"):
    pads = [0, 0, 1, 2, 0, 0, 2, 1]
    each(
        f"pad_{mode}", (7, 10, 11, 13, 18, 19, 21),
        lambda net, o, m=mode, p=pads: net.op("Pad", "x", pads=p, mode=m, **({"value": 0.5} if m == "constant" else {}))
        if o < 11
        else net.op("Pad", "x", ints(net, *p), *([net.const(0.5)] if m == "constant" else []), mode=m),
    )  # fmt: skip


@small(7, 9, 10, 11, 13, 21)
def slices(net: Net, opset: int) -> str:
    if opset < 10:
        return net.op("Slice", "x", starts=[1, -6], ends=[3, 9223372036854775807], axes=[1, 2])
    return net.op("Slice", "x", ints(net, 1, -6), ints(net, 3, 2**63 - 1), ints(net, 1, 2))


@small(7, 9)
def slice_without_axes(net: Net, opset: int) -> str:
    return net.op("Slice", "x", starts=[0, 1], ends=[1, 3])


@small(10, 11, 13)
def slice_backwards(net: Net, opset: int) -> str:
    return net.op("Slice", "x", ints(net, -1), ints(net, -100), ints(net, 3), ints(net, -2))


@small(7, 11, 12, 13, 21)
def squeeze_and_unsqueeze(net: Net, opset: int) -> str:
    if opset < 13:
        y = net.op("Unsqueeze", "x", axes=[1, 5])
        return net.op("Squeeze", y, axes=[1])
    return net.op("Squeeze", net.op("Unsqueeze", "x", ints(net, 1, 5)), ints(net, 1))


@small(11, 12, 13)
def unsqueeze_from_behind(net: Net, opset: int) -> str:
    return net.op("Unsqueeze", "x", axes=[-1]) if opset < 13 else net.op("Unsqueeze", "x", ints(net, -1))


@small(7, 11, 13, 18, 19)
def split_in_equal_parts(net: Net, opset: int) -> str:
    extra = {"num_outputs": 2} if opset >= 18 else {}
    y = net.op("Split", "x", outputs=2, axis=1, **extra)
    return net.op("Sub", y, f"{y}.1")


@small(7, 11, 13, 18)
def split_in_unequal_parts(net: Net, opset: int) -> str:
    y = (
        net.op("Split", "x", outputs=2, axis=1, split=[1, 3])
        if opset < 13
        else net.op("Split", "x", ints(net, 1, 3), outputs=2, axis=1)
    )
    return net.op("Mul", y, f"{y}.1")


@small(7, 9, 11, 13, 14, 19, 21)
def reshapes(net: Net, opset: int) -> str:
    return net.op("Reshape", "x", ints(net, 0, -1, 5))


@small(7, 9, 11, 13, 21)
def flattens(net: Net, opset: int) -> str:
    return net.op("Flatten", "x", axis=2)


@small(8, 13)
def expands(net: Net, opset: int) -> str:
    return net.op("Mul", net.op("Expand", net.const(np.ones((1, 4, 1, 1))), ints(net, 1, 4, 8, 10)), "x")


@small(7, 13)
def tiles(net: Net, opset: int) -> str:
    return net.op("Tile", "x", ints(net, 1, 2, 1, 3))


@small(7, 11, 13)
def gathers(net: Net, opset: int) -> str:
    return net.op("Gather", "x", ints(net, 2, 0), axis=1)


@small(9, 11, 13)
def scatters(net: Net, opset: int) -> str:
    kind = "Scatter" if opset < 11 else "ScatterElements"
    y = net.op(kind, net.const(np.zeros((1, 4, 1, 1))), net.const([[[[2]]]], np.int64), net.const([[[[1.5]]]]), axis=1)
    return net.op("Add", y, "x")


@small(7, 11, 13)
def depth_to_space(net: Net, opset: int) -> str:
    return net.op("DepthToSpace", "x", blocksize=2)


@small(11, 13)
def depth_to_space_as_torch_does(net: Net, opset: int) -> str:
    return net.op("DepthToSpace", "x", blocksize=2, mode="CRD")


@small(7, 13)
def space_to_depth(net: Net, opset: int) -> str:
    return net.op("SpaceToDepth", "x", blocksize=2)


@small(7, 13, 21)
def transposes(net: Net, opset: int) -> str:
    return net.op("Transpose", "x", perm=[0, 2, 3, 1])


@small(7, 11, 13)
def concats(net: Net, opset: int) -> str:
    return net.op("Concat", "x", net.op("Neg", "x"), axis=1)


@small(14, 18)
def trilu(net: Net, opset: int) -> str:
    return net.op("Trilu", "x", upper=0)


# --- pools and convolutions ------------------------------------------------------------------------------------------


@small(7, 10, 11, 19)
def average_pool(net: Net, opset: int) -> str:
    return net.op("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


@small(7, 10, 11, 19)
def average_pool_counts_the_border(net: Net, opset: int) -> str:
    return net.op("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)


@small(10, 11, 19)
def average_pool_rounds_up(net: Net, opset: int) -> str:
    return net.op("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)


@small(7, 11, 19)
def average_pool_same(net: Net, opset: int) -> str:
    return net.op("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")


@small(7, 8, 10, 11, 12)
def max_pool(net: Net, opset: int) -> str:
    return net.op("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


@small(10, 11, 12)
def max_pool_rounds_up(net: Net, opset: int) -> str:
    return net.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, dilations=[1, 2])


@small(7, 11, 18)
def lp_pool(net: Net, opset: int) -> str:
    return net.op("LpPool", "x", kernel_shape=[2, 2], strides=[2, 2], p=2)


@small(7, 20)
def global_pools(net: Net, opset: int) -> str:
    return net.op("Add", net.op("GlobalAveragePool", "x"), net.op("GlobalMaxPool", "x"))


@small(7, 11)
def convolution_same(net: Net, opset: int) -> str:
    return net.op("Conv", "x", net.const(net.rng.normal(size=(4, 4, 3, 3))), auto_pad="SAME_LOWER", strides=[2, 2])


@small(7, 11, 13, 21)
def convolution_in_groups(net: Net, opset: int) -> str:
    return net.conv("x", 4, 4, group=2, dilations=[1, 1], strides=[2, 1])


@small(7, 11, 21)
def transposed_convolution(net: Net, opset: int) -> str:
    return net.op(
        "ConvTranspose",
        "x",
        net.const(net.rng.normal(size=(4, 3, 3, 3))),
        net.const([1, 2, 3]),
        strides=[2, 2],
        pads=[1] * 4,
        output_padding=[1, 1],
    )


@small(7, 11)
def transposed_convolution_same(net: Net, opset: int) -> str:
    return net.op(
        "ConvTranspose", "x", net.const(net.rng.normal(size=(4, 3, 3, 3))), strides=[2, 2], auto_pad="SAME_UPPER"
    )


@small(19)
def deformable_convolution(net: Net, opset: int) -> str:
    offsets = net.conv("x", 4, 18, name="offsets")
    return net.op(
        "DeformConv", "x", net.const(net.rng.normal(size=(4, 4, 3, 3))), offsets, pads=[1] * 4, kernel_shape=[3, 3]
    )


# --- activations -----------------------------------------------------------------------------------------------------

for kind, opsets in {
    "Relu": (7, 13, 14), "Sigmoid": (7, 13), "Tanh": (7, 13), "Softplus": (7, 20), "Softsign": (7, 20), "Elu": (7, 20),
    "Selu": (7, 20), "LeakyRelu": (7, 15, 16), "HardSigmoid": (7, 20), "ThresholdedRelu": (10, 20), "Erf": (9, 13),
    "HardSwish": (14, 20), "Mish": (18,), "Celu": (12,), "Gelu": (20,), "Exp": (7, 13), "Abs": (7, 13), "Neg": (7, 13),
    "Floor": (7, 13), "Ceil": (7, 13), "Round": (11, 20), "Sign": (9, 13), "Sin": (7,), "Cos": (7,), "Atan": (7,),
    "Identity": (7, 13, 16), "Reciprocal": (7, 13), "Shrink": (9,), "Sqrt": (7, 13), "Dropout": (7, 10, 12, 13),
    "Not": (7,), "IsNaN": (9, 13), "IsInf": (10, 20),
}.items():  # fmt: skip

    def _unary(net: Net, opset: int, kind: str = kind) -> str:
        x = net.op("Abs", "x") if kind in {"Sqrt", "Reciprocal"} else "x"
        if kind == "Not":
            x = net.op("Greater", "x", net.const(0.0))
        y = net.op(kind, x)
        return net.op("Cast", y, to=TensorProto.FLOAT) if kind in {"Not", "IsNaN", "IsInf"} else y

    each(kind, opsets, _unary)

each("dropout_ratio", (7, 10, 11), lambda net, o: net.op("Dropout", "x", ratio=0.3))
each("dropout_ratio_input", (12, 13), lambda net, o: net.op("Dropout", "x", net.const(0.3), net.const(False, bool)))
each("clip_attributes", (7, 10), lambda net, o: net.op("Clip", "x", min=-0.2, max=0.4))
each("clip_only_min", (7, 10), lambda net, o: net.op("Clip", "x", min=0.1))
each("clip_inputs", (11, 12, 13), lambda net, o: net.op("Clip", "x", net.const(-0.2), net.const(0.4)))
each("clip_only_max", (11, 12, 13), lambda net, o: net.op("Clip", "x", "", net.const(0.4)))
each("prelu", (7, 9, 16), lambda net, o: net.op("PRelu", "x", net.const([[[0.1]], [[0.2]], [[0.3]], [[0.4]]])))
each("prelu_scalar", (7, 9, 16), lambda net, o: net.op("PRelu", "x", net.const([0.2])))
each("gelu_tanh", (20,), lambda net, o: net.op("Gelu", "x", approximate="tanh"))

# --- arithmetic ------------------------------------------------------------------------------------------------------

for kind, opsets in {
    "Add": (7, 13, 14), "Sub": (7, 13, 14), "Mul": (7, 13, 14), "Div": (7, 13, 14), "Max": (8, 12, 13),
    "Min": (8, 12, 13), "Mean": (8, 13), "Sum": (8, 13), "MatMul": (7, 9, 13),
}.items():  # fmt: skip
    shape = (10, 6) if kind == "MatMul" else (4, 1, 1)
    each(kind, opsets, lambda net, o, k=kind, s=shape: net.op(k, "x", net.const(net.rng.uniform(0.5, 2, s))))
    if kind != "MatMul":
        each(f"{kind}_scalar", opsets, lambda net, o, k=kind: net.op(k, "x", net.const(0.7)))

each("pow", (7, 12, 13, 15), lambda net, o: net.op("Pow", net.op("Abs", "x"), net.const(1.7)))
each("pow_integer", (12, 13, 15), lambda net, o: net.op("Pow", "x", net.const(2, np.int64)))
each("mod", (10, 13), lambda net, o: net.op("Mod", "x", net.const(0.3), fmod=1))
each("gemm", (7, 9, 11, 13), lambda net, o: net.linear(net.op("Flatten", "x"), 320, 5))
each(
    "gemm_factors",
    (7, 9, 11, 13),
    lambda net, o: net.op(
        "Gemm", net.op("Flatten", "x"), net.const(net.rng.normal(size=(320, 5))), net.const(2.0), alpha=0.5, beta=0.3
    ),
)
each(
    "gemm_without_bias",
    (11, 13),
    lambda net, o: net.op("Gemm", net.op("Flatten", "x"), net.const(net.rng.normal(size=(320, 5)))),
)
each(
    "einsum",
    (12,),
    lambda net, o: net.op("Einsum", "x", net.const(net.rng.normal(size=(4, 6))), equation="bchw,cd->bdhw"),
)
each("where", (9, 16), lambda net, o: net.op("Where", net.op("Less", "x", net.const(0.3)), "x", net.const(1.0)))
each(
    "compare",
    (7, 9, 11, 13),
    lambda net, o: net.op(
        "Cast", net.op("Equal", net.op("Cast", "x", to=TensorProto.INT32), net.const(0, np.int32)), to=1
    ),
)
each("compare_greater", (7, 9, 13), lambda net, o: net.op("Cast", net.op("Greater", "x", net.const(0.3)), to=1))
each("greater_or_equal", (12, 16), lambda net, o: net.op("Cast", net.op("GreaterOrEqual", "x", net.const(0.3)), to=1))
each("argmax", (7, 11, 12, 13), lambda net, o: net.op("Cast", net.op("ArgMax", "x", axis=1), to=1))
each("topk", (10, 11), lambda net, o: net.op("TopK", "x", ints(net, 3), outputs=2, axis=-1))
each("topk_attribute", (7, 9), lambda net, o: net.op("TopK", "x", outputs=2, axis=3, k=3))
each("cumsum", (11, 14), lambda net, o: net.op("CumSum", "x", net.const(1, np.int64)))
each(
    "cast",
    (7, 9, 13, 19),
    lambda net, o: net.op("Cast", net.op("Cast", net.op("Mul", "x", net.const(9.0)), to=TensorProto.INT64), to=1),
)
each(
    "one_hot",
    (9, 11),
    lambda net, o: net.op(
        "OneHot", net.op("ArgMax", "x", axis=1, keepdims=0), net.const(4, np.int64), net.const([0.0, 1.0]), axis=1
    ),
)
each(
    "constant_of_shape",
    (9, 20),
    lambda net, o: net.op(
        "Add",
        "x",
        net.op("ConstantOfShape", ints(net, 8, 10), value=numpy_helper.from_array(np.array([2.5], np.float32))),
    ),
)
each(
    "grid_sample",
    (16, 20),
    lambda net, o: net.op(
        "GridSample",
        "x",
        net.op(
            "Expand",
            net.const(net.rng.uniform(-1, 1, (1, 5, 5, 2))),
            net.op(
                "Concat", net.op("Slice", net.op("Shape", "x"), ints(net, 0), ints(net, 1)), ints(net, 5, 5, 2), axis=0
            ),
        ),
        mode="bilinear" if o < 20 else "linear",
    ),
)
each(
    "layer_of_channels",
    (11, 13, 17),
    lambda net, o: (
        net.instance_norm("x", "norm")
        if o >= 18
        else net.op(
            "Div",
            net.op("Sub", "x", net.op("ReduceMean", "x", axes=[1])),
            net.op("Sqrt", net.op("Add", net.op("ReduceMean", net.op("Mul", "x", "x"), axes=[1]), net.const(1e-5))),
        )
    ),
)
each(
    "sum_of_shape_arithmetic",
    (9, 11, 13, 17),
    lambda net, o: net.op(
        "Reshape",
        "x",
        net.op(
            "Concat",
            net.op("Gather", net.op("Shape", "x"), ints(net, 0)),
            ints(net, -1),
            net.op("Gather", net.op("Shape", "x"), ints(net, 3)),
            axis=0,
        ),
    ),
)
each(
    "affine_grid",
    (20,),
    lambda net, o: net.op(
        "Add",
        net.op(
            "ReduceMean",
            net.op("AffineGrid", net.const([[[1, 0, 0], [0, 1, 0]]]), ints(net, 1, 1, 8, 10)),
            ints(net, 3),
            keepdims=0,
        ),
        "x",
    ),
)
each(
    "bias_gelu_by_hand",
    (9, 13),
    lambda net, o: net.op(
        "Mul",
        net.op("Mul", "x", net.const(0.5)),
        net.op("Add", net.op("Erf", net.op("Div", "x", net.const(1.4142135))), net.const(1.0)),
    ),
)
