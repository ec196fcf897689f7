"""Published times of TensorRT engines, held against the model of time (`engine.timing`).

    python benchmarks/predicted_time.py check      the table of docs/evidence.md; needs tensorrt_rtx, no GPU

The engines that were measured are not here, so their kernels are stood in for: by those that TensorRT-RTX compiles from
the same network with random weights for the same compute capability (``rtx``), or by the fusions that TensorRT is known
for on ResNets (``fused``): convolution, bias, addition and ReLU in one kernel, INT8 in and out. Both are shown where
both exist; a deviation is that of the model and of the stand-in together.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import typer

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]
from nets import Net, swapper  # noqa: E402

from trt_facefusion.engine.backends.base import BuildRequest, Kernel, TensorFormat  # noqa: E402
from trt_facefusion.engine.backends.tensorrt_rtx import TensorRtRtx  # noqa: E402
from trt_facefusion.engine.timing.factors import AT_THE_ROOF, Factors  # noqa: E402
from trt_facefusion.engine.timing.fit import apply_factors  # noqa: E402
from trt_facefusion.engine.timing.gpus import RATES, get_gpu  # noqa: E402
from trt_facefusion.engine.timing.roofline import EnginePrediction, predict_engine  # noqa: E402
from trt_facefusion.model.graph import GraphView, prepare  # noqa: E402
from trt_facefusion.quantization.lowering import lower  # noqa: E402
from trt_facefusion.quantization.precision import Plan, plan_by_rules  # noqa: E402
from trt_facefusion.types import Precision  # noqa: E402

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
RTX_TARGETS = {"t4": "sm86", "a100": "sm80", "l4": "sm89", "rtx3090": "sm86"}
"""What TensorRT-RTX compiles for each GPU; the T4, which it does not know, gets Ampere's kernels."""
_STAGES = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}


@dataclass(frozen=True)
class Point:
    """One published time: milliseconds of one inference of ``batch`` samples on ``gpu``."""

    network: str
    gpu: str
    precision: str
    batch: int
    measured_ms: float
    source: str


_PADDLE = "Paddle Inference, GPU benchmark, TensorRT 8.0.3"
_MMDEPLOY = "mmdeploy, docs/en/03-benchmark/benchmark.md, TensorRT 7.2.3"
_ZOO = "NVIDIA, TensorFlow quantization toolkit, model zoo, TensorRT 8.4"
_EMBEDL = "embedl-deploy, benchmark results, trtexec with CUDA graphs, TensorRT 10.9"
_ILV = "innolive-ai, README of its inswapper engines, TensorRT 11.1"
POINTS = (
    Point("inswapper", "rtx3090", "fp32", 1, 14.25, _ILV),
    Point("inswapper", "rtx3090", "convolutions fp16", 1, 5.77, _ILV),
    Point("resnet50", "l4", "fp16", 1, 0.267, _EMBEDL),
    Point("resnet50", "l4", "int8", 1, 0.222, _EMBEDL),
    Point("resnet50", "a100", "int8", 1, 0.46, _ZOO),
    Point("resnet101", "a100", "int8", 1, 0.84, _ZOO),
    Point("resnet50", "t4", "fp32", 1, 3.5244, _PADDLE),
    Point("resnet50", "t4", "fp32", 2, 5.2147, _PADDLE),
    Point("resnet50", "t4", "fp32", 4, 9.3702, _PADDLE),
    Point("resnet50", "t4", "fp16", 1, 1.3045, _PADDLE),
    Point("resnet50", "t4", "fp16", 2, 1.8964, _PADDLE),
    Point("resnet50", "t4", "fp16", 4, 3.1821, _PADDLE),
    Point("resnet50", "t4", "fp32", 1, 2.97, _MMDEPLOY),
    Point("resnet50", "t4", "fp16", 1, 1.26, _MMDEPLOY),
    Point("resnet50", "t4", "int8", 1, 1.21, _MMDEPLOY),
)


def make_resnet(name: str) -> onnx.ModelProto:
    """A ResNet of bottlenecks as torchvision builds it, norms folded, random weights: [N,3,224,224] -> [N,1000]."""
    net = Net()
    x = net.op("Relu", net.conv("image", 3, 64, 7, "stem", strides=[2, 2]))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for number, blocks in enumerate(_STAGES[name]):
        inner = 64 << number
        for block in range(blocks):
            stride = [2, 2] if block == 0 and number else [1, 1]
            side = net.conv(x, width, 4 * inner, 1, strides=stride) if block == 0 else x
            y = net.op("Relu", net.conv(x, width, inner, 1))
            y = net.op("Relu", net.conv(y, inner, inner, 3, strides=stride))
            x = net.op("Relu", net.op("Add", net.conv(y, inner, 4 * inner, 1), side))
            width = 4 * inner
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    output = net.op("Identity", net.linear(pooled, width, 1000, std=0.01), name="output")
    return net.model({"image": ["N", 3, 224, 224]}, {output: ["N", 1000]})


def list_fused_kernels(name: str, dtype: str, batch: int) -> Iterator[Kernel]:
    """The kernels of a ResNet as TensorRT fuses it; input and output are FP32."""

    def make(kind: str, inputs: Sequence[TensorFormat], held: tuple[int, ...], result: TensorFormat) -> Kernel:
        weights = (TensorFormat("weights", dtype, held),) if held else ()
        return Kernel(kind, kind, (), tuple(inputs), weights, (result,))

    def describe(channels: int, size: int, kind: str = dtype) -> TensorFormat:
        return TensorFormat("", kind, (batch, channels, size, size))

    yield make("Reformat", [describe(3, 224, "fp32")], (), describe(3, 224))
    yield make("CaskConvolution", [describe(3, 224)], (64, 3, 7, 7), describe(64, 112))
    yield make("CaskPooling", [describe(64, 112)], (), describe(64, 56))
    width, size = 64, 56
    for number, blocks in enumerate(_STAGES[name]):
        inner = 64 << number
        for block in range(blocks):
            before, size = size, size // 2 if block == 0 and number else size
            if block == 0:
                yield make(
                    "CaskConvolution", [describe(width, before)], (4 * inner, width, 1, 1), describe(4 * inner, size)
                )
            yield make("CaskConvolution", [describe(width, before)], (inner, width, 1, 1), describe(inner, before))
            yield make("CaskConvolution", [describe(inner, before)], (inner, inner, 3, 3), describe(inner, size))
            both = [describe(inner, size), describe(4 * inner, size)]
            yield make("CaskConvolution", both, (4 * inner, inner, 1, 1), describe(4 * inner, size))
            width = 4 * inner
    yield make("CaskPooling", [describe(width, 7)], (), describe(width, 1))
    yield make("CaskConvolution", [describe(width, 1)], (1000, width, 1, 1), describe(1000, 1, "fp32"))


def plan_convolutions_fp16(plan: Plan) -> Plan:
    """All convolutions but the first in FP16, everything else in FP32: 19 of inswapper's 20, as its README has it."""
    first = next(node.name for node in plan.nodes if node.op == "Conv")
    nodes = tuple(
        replace(n, precision=Precision.FP16 if n.op == "Conv" and n.name != first else Precision.FP32)
        for n in plan.nodes
    )
    return replace(plan, nodes=nodes)


@cache
def compile_kernels(network: str, precision: str, target: str, batch: int) -> tuple[Kernel, ...]:
    """The kernels that TensorRT-RTX compiles of a network with random weights; INT8 with made-up ranges."""
    swaps = network == "inswapper"
    model = swapper(256, 6, 128, 512) if swaps else make_resnet(network)
    shapes = {"target": (3, 128, 128), "source": (512,)} if swaps else {"image": (3, 224, 224)}
    view = GraphView(prepare(model, shapes, batch=batch).model)
    amax = {t: 4.0 for node in view.model.graph.node for t in (*node.input, *node.output) if t}
    plan = plan_by_rules(view, amax, network)
    plan = plan_convolutions_fp16(plan) if precision not in _DTYPES else plan.capped(Precision(precision))
    typed = lower(view, plan, amax)
    print(f"compiling {network} {precision} for {target}, batch {batch}", file=sys.stderr)
    built = TensorRtRtx().build(BuildRequest(typed.SerializeToString(), {}, target))
    return built.kernels


Stand_in = Callable[[Point], Sequence[Kernel]]


def by_rtx(point: Point) -> Sequence[Kernel]:
    return compile_kernels(point.network, point.precision, RTX_TARGETS[point.gpu], point.batch)


def by_fusion(point: Point) -> Sequence[Kernel]:
    return tuple(list_fused_kernels(point.network, _DTYPES[point.precision], point.batch))


def predict(point: Point, stand_in: Stand_in, factors: Factors = AT_THE_ROOF) -> EnginePrediction:
    return predict_engine(stand_in(point), get_gpu(point.gpu), point.batch, factors)


@dataclass(frozen=True)
class Row:
    """A point and what the model says of it."""

    point: Point
    stand_in: str
    predicted: EnginePrediction

    @property
    def ratio(self) -> float:
        """Predicted over measured; below 1, the engine took longer than the roof."""
        return self.predicted.total_ms / self.point.measured_ms


def predict_points(factors: Factors = AT_THE_ROOF) -> Iterator[Row]:
    for point in POINTS:
        yield Row(point, "rtx", predict(point, by_rtx, factors))
        if point.network in _STAGES:
            yield Row(point, "fused", predict(point, by_fusion, factors))


def write_table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| network, batch | GPU | precision | kernels | measured, ms | predicted, ms | ratio | bound by |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        p, by_bound = row.point, row.predicted.sum_by_bound()
        bound = ", ".join(f"{name} {time / row.predicted.total_ms:.0%}" for name, time in by_bound.items() if time > 0)
        yield (
            f"| {p.network}, {p.batch} | {p.gpu} | {p.precision} | {row.stand_in} ({row.predicted.launches}) | "
            f"{p.measured_ms:.3f} | {row.predicted.total_ms:.3f} | {row.ratio:.2f} | {bound} |"
        )


def recompute_ratio(row: Row, factors: Factors) -> float:
    """Predicted over measured, with other factors than those of the row."""
    return sum(apply_factors(kernel, factors) for kernel in row.predicted.kernels) / row.point.measured_ms


def calibrate(rows: Sequence[Row]) -> Factors:
    """Three factors for whole engines (bandwidth, arithmetic, launches), by coordinate search on squared log ratios."""

    def make(exponents: Sequence[int]) -> Factors:
        memory, arithmetic, launch = (2 ** (exponent / 4) for exponent in exponents)
        return Factors(memory, dict.fromkeys(RATES, arithmetic), launch)

    def compute_loss(exponents: Sequence[int]) -> float:
        factors = make(exponents)
        return sum(np.log(recompute_ratio(row, factors)) ** 2 for row in rows) + 1e-4 * sum(e * e for e in exponents)

    best = [0, 0, 0]
    for place in [0, 1, 2] * 4:
        tried = [[*best[:place], exponent, *best[place + 1 :]] for exponent in range(-16, 9)]
        best = min(tried, key=compute_loss)
    return make(best)


_SPLITS = {
    "T4: Paddle's points, judged on mmdeploy's": (lambda p: p.source == _PADDLE, lambda p: p.source == _MMDEPLOY),
    "A100: ResNet-50, judged on ResNet-101": (
        lambda p: p.gpu == "a100" and p.network == "resnet50",
        lambda p: p.gpu == "a100" and p.network == "resnet101",
    ),
    "all but T4, judged on the T4": (lambda p: p.gpu != "t4", lambda p: p.gpu == "t4"),
    "all but RTX 3090, judged on it": (lambda p: p.gpu != "rtx3090", lambda p: p.gpu == "rtx3090"),
}


def write_calibrations(rows: Sequence[Row]) -> Iterator[str]:
    """What factors from some points are worth on others; kernels as fused where they are known, else by RTX."""
    chosen = [row for row in rows if row.stand_in == "fused" or row.point.network not in _STAGES]
    yield "| calibrated on, judged on | bandwidth, arithmetic, launches | judged: ratio before | after |"
    yield "|---|---|---|---|"
    for name, (learns, judges) in _SPLITS.items():
        factors = calibrate([row for row in chosen if learns(row.point)])
        judged = [row for row in chosen if judges(row.point)]
        before, after = ([recompute_ratio(row, f) for row in judged] for f in (AT_THE_ROOF, factors))
        shares = f"{factors.memory:.2f}, {factors.of_rate('fp16'):.2f}, {factors.launch:.2f}"
        yield f"| {name} | {shares} | {_span(before)} | {_span(after)} |"


def _span(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


@app.command()
def check() -> None:
    """The table of published times and predictions, as Markdown, and how far off they are."""
    rows = list(predict_points())
    print("\n".join(write_table(rows)))
    for stand_in in ("rtx", "fused"):
        ratios = [row.ratio for row in rows if row.stand_in == stand_in]
        print(f"\n{stand_in}: predicted / measured {_span(ratios)}, median {statistics.median(ratios):.2f}")
    print("\n" + "\n".join(write_calibrations(rows)))
    print("\nSources: " + "; ".join(dict.fromkeys(point.source for point in POINTS)) + ".")


@app.callback()
def root() -> None:
    """Published times against the model of time."""


if __name__ == "__main__":
    app()
