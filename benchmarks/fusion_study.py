"""What TensorRT-RTX fuses: small networks written in several forms, and the kernels that come out of each.

    python benchmarks/fusion_study.py                       (all groups; each network compiles in a second)
    python benchmarks/fusion_study.py norms residuals       (some of them)
    python benchmarks/fusion_study.py weights --kernels     (every kernel as well)

Every network takes and gives FP32 and computes in FP16; weights are random. Kernels and bytes are read from the build
log; the time is the roofline's for an A10G (`trt_facefusion/engine/timing`), predicted and not measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.tensorrt_rtx import TensorRtRtx
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.engine.timing.roofline import EnginePrediction, predict_engine

HALF, SINGLE = np.float16, np.float32
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Net:
    """Nodes and weights of one network; what computes in between has the type ``base``."""

    def __init__(self, base: Any = HALF) -> None:
        self.base = base
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def const(self, values: Any, dtype: Any = None) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype or self.base), name))
        return name

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = attributes.pop("name", f"{op_type}{len(self.nodes)}")
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def cast(self, x: str, to: Any) -> str:
        return self.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))

    def qdq(self, x: str, zero: bool = True) -> str:
        scale, zeros = self.const(0.05), [self.const(0, np.int8)] if zero else []
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, scale, *zeros), scale, *zeros)

    def weight(self, shape: Sequence[int], scales: str) -> str:
        """``scales``: float (not quantised), channel, equal (one number for each channel) or tensor."""
        values = self.rng.normal(0, 0.1, shape)
        if scales == "float":
            return self.const(values)
        others = tuple(range(1, len(shape)))
        step = np.abs(values).max(others if scales == "channel" else None, keepdims=True) / 127
        integers = self.const(np.rint(values / step), np.int8)
        if scales == "tensor":
            return self.op("DequantizeLinear", integers, self.const(step.reshape(())), self.const(0, np.int8))
        steps = np.broadcast_to(step.reshape(-1), shape[:1])
        zeros = self.const(np.zeros(shape[0]), np.int8)
        return self.op("DequantizeLinear", integers, self.const(steps), zeros, axis=0)

    def conv(self, x: str, scales: str, name: str, shape: Sequence[int] = (64, 64, 3, 3), **options: Any) -> str:
        given, zero = options.pop("quantised", False), options.pop("zero", True)
        x = x if given or scales == "float" else self.qdq(x, zero)
        bias = [self.const(self.rng.normal(0, 0.1, shape[0]))] if options.pop("bias", True) else []
        return self.op("Conv", x, self.weight(shape, scales), *bias, name=name, pads=[shape[2] // 2] * 4, **options)

    def act(self, x: str, kind: str) -> str:
        if kind == "none":
            return x
        if kind == "Silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind == "Gelu":
            return self.op("Gelu", x, approximate="tanh")
        extra = {"PRelu": [np.full((1, 1, 1), 0.2)], "Clip": [np.array(0), np.array(6)]}.get(kind, [])
        return self.op(kind, x, *map(self.const, extra), **({"alpha": 0.2} if kind == "LeakyRelu" else {}))

    def factors(self, x: str, channels: int = 64) -> str:
        """Channels times a factor plus a shift."""
        x = self.op("Mul", x, self.const(self.rng.uniform(0.5, 1, (1, channels, 1, 1))))
        return self.op("Add", x, self.const(self.rng.normal(0, 0.1, (1, channels, 1, 1))))

    def norm(self, x: str, form: str, channels: int = 64) -> str:
        """Instance normalisation, in one of several forms."""
        if form.startswith("operator"):
            kind = HALF if form.endswith("FP16") else SINGLE
            y = x if kind is self.base else self.cast(x, kind)
            ones, zeros = self.const(np.ones(channels), kind), self.const(np.zeros(channels), kind)
            y = self.op("InstanceNormalization", y, ones, zeros)
            return y if kind is self.base else self.cast(y, self.base)
        wide = self.cast(x, SINGLE)
        flat = form.startswith("flat")
        rows = self.op("Reshape", wide, self.const([0, 0, -1], np.int64)) if flat else wide
        axes = self.const([2] if flat else [2, 3], np.int64)
        mean = self.op("ReduceMean", rows, axes)
        centred = self.op("Sub", rows, mean)
        variance = self.op("ReduceMean", self.op("Mul", centred, centred), axes)
        gain = self.op("Reciprocal", self.op("Sqrt", self.op("Add", variance, self.const(1e-5, SINGLE))))
        if not flat:
            return self.cast(self.op("Mul", centred, gain), self.base)
        shift, last = self.op("Mul", mean, gain), self.const([3], np.int64)
        source = wide if form.endswith("one cast") else self.cast(x, SINGLE)
        scaled = self.op("Mul", source, self.op("Unsqueeze", gain, last))
        return self.cast(self.op("Sub", scaled, self.op("Unsqueeze", shift, last)), self.base)


@dataclass(frozen=True)
class Form:
    """One way of writing a network: ``body`` takes the network and its input in ``base``."""

    network: str
    name: str
    body: Callable[[Net, str], str]
    shape: tuple[int, ...] = (1, 64, 64, 64)
    base: Any = HALF
    opset: int = 20
    target: str = "sm86"

    def make(self) -> bytes:
        net = Net(self.base)
        last = net.cast(self.body(net, net.cast("x", self.base)), SINGLE)
        ins = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        outs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, [None] * len(self.shape))]
        graph = helper.make_graph(net.nodes, "net", ins, outs, net.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return bytes(model.SerializeToString())

    def compile(self) -> EnginePrediction:
        kernels = TensorRtRtx().build(BuildRequest(self.make(), {}, self.target)).kernels
        return predict_engine(kernels, get_gpu("a10g"), 1)


def chain(scales: str, activation: str = "LeakyRelu", factors: bool = False, **options: Any) -> Any:
    """Two convolutions with activations; an FP16 one in front and one behind."""

    def body(net: Net, x: str) -> str:
        x = net.act(net.conv(x, "float", "in"), "Relu")
        for name in ("first", "second"):
            x = net.conv(x, scales, name, **options)
            x = net.act(net.factors(x) if factors else x, activation)
        return net.conv(x, "float", "out")

    return body


def weights() -> Iterator[Form]:
    """What an INT8 convolution writes."""
    name = "2 x (conv, LeakyRelu)"
    yield Form(name, "FP16", chain("float"))
    yield Form(name, "INT8, a scale for each channel", chain("channel"))
    yield Form(name, "INT8, equal scales for each channel", chain("equal"))
    yield Form(name, "INT8, one scale", chain("tensor"))
    yield Form(name, "INT8, one scale, channel factors behind", chain("tensor", factors=True, bias=False))
    yield Form(name, "INT8, one scale, FP32 around", chain("tensor"), base=SINGLE)
    for opset in (19, 21):
        yield Form(name, f"INT8, one scale, opset {opset}", chain("tensor"), opset=opset)
    yield Form(name, "INT8, one scale, batch 4", chain("tensor"), (4, 64, 64, 64))
    yield Form(name, "INT8, one scale, no zero point", chain("tensor", zero=False))
    for target in ("sm80", "sm89", "sm120"):
        yield Form(name, f"INT8, one scale, {target}", chain("tensor"), target=target)


def activations() -> Iterator[Form]:
    """What an INT8 convolution with one weight scale keeps."""
    for kind in ("none", "Relu", "Clip", "Tanh", "Sigmoid", "Gelu", "LeakyRelu", "PRelu", "Elu", "Silu"):
        yield Form("2 x (conv, activation)", f"INT8, {kind}", chain("tensor", kind))
    for kind in ("Relu", "LeakyRelu"):
        yield Form("2 x (conv, activation)", f"FP16, {kind}", chain("float", kind))


def placements() -> Iterator[Form]:
    """Where Q/DQ stand."""

    def quantised_result(between: bool) -> Any:
        def body(net: Net, x: str) -> str:
            x = net.qdq(net.act(net.conv(x, "float", "in"), "Relu"))
            for name in ("first", "second"):
                x = net.qdq(net.conv(x, "tensor", name, quantised=True))
                x = net.act(x, "Relu")
                x = net.qdq(x) if between else x
            return net.conv(x, "float", "out")

        return body

    name = "2 x (conv, Relu)"
    yield Form(name, "Q/DQ in front of each conv", chain("tensor", "Relu"))
    yield Form(name, "Q/DQ behind each conv, too", quantised_result(True))
    yield Form(name, "Q/DQ behind each conv only", quantised_result(False))


def norms() -> Iterator[Form]:
    """How instance normalisation is written."""

    def body_of(form: str, scales: str) -> Any:
        def body(net: Net, x: str) -> str:
            x = net.act(net.conv(x, "float", "in"), "Relu")
            for name in ("first", "second"):
                x = net.act(net.factors(net.norm(net.conv(x, scales, name, bias=False), form)), "Relu")
            return net.conv(x, "float", "out")

        return body

    forms = ("operator, FP32", "operator, FP16", "over two axes", "flat, one cast", "flat, two casts")
    for size in (16, 32, 64, 128):
        for form in forms if size in (16, 64) else (forms[0], forms[-1]):
            yield Form(
                f"2 x (conv, norm, Relu), {size} px", f"INT8, {form}", body_of(form, "tensor"), (1, 64, size, size)
            )
    for form in (forms[0], forms[-1]):
        yield Form("2 x (conv, norm, Relu), 64 px", f"FP16, {form}", body_of(form, "float"))


def residuals() -> Iterator[Form]:
    """What is added, and when it is quantised."""

    def body_of(scales: str, form: str) -> Any:
        def body(net: Net, x: str) -> str:
            x = net.act(net.conv(x, "float", "in"), "Relu")
            for index in range(2):
                seen = net.qdq(x) if scales != "float" else x
                y = net.conv(seen, scales, f"a{index}", quantised=True, bias="norm" not in form)
                y = net.act(net.norm(y, "flat, two casts") if "norm" in form else y, "Relu")
                y = net.conv(y, scales, f"b{index}", bias="norm" not in form)
                y = net.norm(y, "flat, two casts") if "norm" in form else y
                x = net.op("Add", y, seen if "quantised" in form else x)
            return net.conv(x, "float", "out")

        return body

    for form in ("skip as it is", "quantised skip", "norms, skip as it is", "norms, quantised skip"):
        yield Form("2 residual blocks, 32 px", f"INT8, {form}", body_of("tensor", form), (1, 64, 32, 32))
    for form in ("skip as it is", "norms, skip as it is"):
        yield Form("2 residual blocks, 32 px", f"FP16, {form}", body_of("float", form), (1, 64, 32, 32))


def linears() -> Iterator[Form]:
    """Linear layers that read one tensor, as those of styles do."""

    def body_of(scales: str) -> Any:
        def body(net: Net, x: str) -> str:
            x = x if scales == "float" else net.qdq(x)
            rows = [
                net.op("Gemm", x, net.weight((384, 256), scales), net.const(np.ones(384)), transB=1, name=f"g{i}")
                for i in range(4)
            ]
            return net.op("Concat", *rows, axis=1)

        return body

    for name, scales in (
        ("FP16", "float"),
        ("INT8, a scale for each output", "channel"),
        ("INT8, one scale", "tensor"),
    ):
        yield Form("4 Gemms, 256 -> 384", name, body_of(scales), (1, 256))


GROUPS = {group.__name__: group for group in (weights, activations, placements, norms, residuals, linears)}


def describe_written(prediction: EnginePrediction) -> str:
    """What INT8 products write, like ``2 x fp16``; for those in FP16 nothing."""
    written = [
        p.kernel.outputs[0].dtype
        for p in prediction.kernels
        if p.kernel.type in {"correlation", "gemm"} and p.kernel.inputs[0].dtype == "int8"
    ]
    return ", ".join(f"{written.count(dtype)} x {dtype}" for dtype in dict.fromkeys(written)) or "-"


def describe_kernels(prediction: EnginePrediction) -> Iterator[str]:
    for p in prediction.kernels:
        name = re.sub(r"^__myl_|_myl\d+_.*", "", p.kernel.name)
        ends = (",".join(t.dtype for t in tensors) for tensors in (p.kernel.inputs, p.kernel.outputs))
        yield f"    {p.kernel.type:14} {name[:60]:60} {' -> '.join(ends)}  {p.work.moved_bytes / 1e3:.0f} kB"


@app.command()
def main(
    groups: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(GROUPS)}; all by default.")] = None,
    kernels: Annotated[bool, typer.Option(help="List the kernels of every form.")] = False,
) -> None:
    console = Console(width=150)
    for group in groups or GROUPS:
        table = Table("network", "form", "kernels", "kB", "predicted us", "INT8 products write", title=group)
        for form in GROUPS[group]():
            found = form.compile()
            table.add_row(
                form.network,
                form.name,
                str(found.launches),
                f"{found.moved_bytes / 1e3:.0f}",
                f"{found.total_ms * 1e3:.1f}",
                describe_written(found),
            )
            if kernels:
                console.print(f"{form.network}: {form.name}", *describe_kernels(found), sep="\n", highlight=False)
        console.print(table, highlight=False)


if __name__ == "__main__":
    app()
