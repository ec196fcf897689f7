"""inswapper_128 at full width with random weights: 138 M parameters, 175 GMACs for a face. The structure is that of the
deployed file (20 convolutions, 12 style linears, normalisation in primitive operators, reflect padding, batch of one).

    python benchmarks/stand_ins/inswapper.py OUT.onnx [--width 128] [--embedding 128]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper

_RESIDUAL_GAIN = 0.2
"""How much a block adds to what it got: trained networks add little, and random ones must not drown the picture."""


class _Graph:
    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        name = f"{kind}_{len(self.nodes)}"
        names = [f"{name}_out{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names

    def conv(self, x: str, n_in: int, n_out: int, kernel: int = 3, stride: int = 1, pad: int = 1) -> str:
        std = np.float32((2 / (n_in * kernel**2)) ** 0.5)
        weight = self.rng.standard_normal((n_out, n_in, kernel, kernel), np.float32) * std
        bias = self.const(self.rng.normal(0, 0.01, n_out))
        return self.op("Conv", x, self.const(weight), bias, strides=[stride] * 2, pads=[pad] * 4)[0]

    def act(self, x: str) -> str:
        return self.op("LeakyRelu", x, alpha=0.2)[0]

    def reflect(self, x: str, pixels: int) -> str:
        return self.op("Pad", x, self.const([0, 0, pixels, pixels] * 2, np.int64), mode="reflect")[0]

    def up(self, x: str) -> str:
        scales = self.const([1, 1, 2, 2])
        return self.op("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="pytorch_half_pixel")[0]

    def normed(self, x: str) -> str:
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[2, 3])[0])[0]
        variance = self.op("ReduceMean", self.op("Mul", centred, centred)[0], axes=[2, 3])[0]
        root = self.op("Sqrt", self.op("Add", variance, self.const(1e-8))[0])[0]
        return self.op("Div", centred, root)[0]

    def styled(self, x: str, channels: int, embedding: int, gain: float) -> str:
        weight = self.const(self.rng.standard_normal((2 * channels, embedding), np.float32) * np.float32(0.5 * gain))
        bias = self.const(np.repeat([gain, 0.0], channels))
        both = self.op("Gemm", "source", weight, bias, transB=1)[0]
        both = self.op("Unsqueeze", both, self.const([2, 3], np.int64))[0]
        scale, shift = self.op("Split", both, self.const([channels, channels], np.int64), outputs=2, axis=1)
        return self.op("Add", self.op("Mul", self.normed(x), scale)[0], shift)[0]


def inswapper(
    width: int = 128, embedding: int = 512, size: int = 128, blocks: int = 6, seed: int = 0
) -> onnx.ModelProto:
    """The network at opset 13: ``target`` [1,3,S,S] in 0..1, ``source`` [1,embedding] of length 1 -> ``output``."""
    graph = _Graph(seed)
    wide = 8 * width
    x = graph.act(graph.conv(graph.reflect("target", 3), 3, width, 7, pad=0))
    x = graph.act(graph.conv(x, width, 2 * width))
    x = graph.act(graph.conv(x, 2 * width, 4 * width, stride=2))
    x = graph.act(graph.conv(x, 4 * width, wide, stride=2))
    for _ in range(blocks):
        y = graph.conv(graph.reflect(x, 1), wide, wide, pad=0)
        y = graph.op("Relu", graph.styled(y, wide, embedding, 1.0))[0]
        y = graph.conv(graph.reflect(y, 1), wide, wide, pad=0)
        x = graph.op("Add", x, graph.styled(y, wide, embedding, _RESIDUAL_GAIN))[0]
    for n_in, n_out, doubled in ((wide, 4 * width, True), (4 * width, 2 * width, True), (2 * width, width, False)):
        x = graph.act(graph.conv(graph.up(x) if doubled else x, n_in, n_out))
    x = graph.op("Tanh", graph.conv(graph.reflect(x, 3), width, 3, 7, pad=0))[0]
    x = graph.op("Div", graph.op("Add", x, graph.const(1.0))[0], graph.const(2.0))[0]
    return _model(graph, x, {"target": [1, 3, size, size], "source": [1, embedding]}, [1, 3, size, size])


def _model(graph: _Graph, last: str, inputs: dict[str, Sequence[int]], shape: Sequence[int]) -> onnx.ModelProto:
    graph.nodes[-1].output[0] = "output"
    assert last != "output"
    made = helper.make_graph(
        graph.nodes,
        "inswapper",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in inputs.items()],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        graph.weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def main(out: Path, width: int = 128, embedding: int = 128, size: int = 128) -> None:
    """Write the network to OUT; 128 values are what the bundled embedder gives."""
    onnx.save(inswapper(width, embedding, size), out)


if __name__ == "__main__":
    typer.run(main)
