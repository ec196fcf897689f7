"""Run a small ONNX network in torch, so that gradients flow through it (the identity loss of the training scripts)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

Attributes = dict[str, Any]


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left = a.get("pads", [0, 0])[:2]
    return F.conv2d(x, weight, bias, stride=tuple(a.get("strides", [1, 1])), padding=(top, left))


def _pad(_: Attributes, x: Tensor, pads: Tensor, *__: Tensor) -> Tensor:
    p = pads.tolist()
    order = (p[3], p[7], p[2], p[6], p[1], p[5], p[0], p[4])
    return F.pad(x, order)


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    return F.max_pool2d(x, a["kernel_shape"], a["strides"], ceil_mode=bool(a.get("ceil_mode", 0)))


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda _, x, y: x + y,
    "AveragePool": lambda a, x: F.avg_pool2d(x, a["kernel_shape"], a["strides"]),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "MatMul": lambda _, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda _, x, y: x * y,
    "Pad": _pad,
    "Relu": lambda _, x: F.relu(x),
    "Sub": lambda _, x, y: x - y,
}


class OnnxModule(nn.Module):
    """A frozen ONNX graph of the operators above as a differentiable module with one input.

    ``forward`` returns the tensors named by ``outputs`` (default: the graph's first output), as a list.

    Raises:
        ValueError: the graph uses an operator that is not in ``OPERATORS``.
    """

    def __init__(self, path: Path, outputs: list[str] | None = None) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        unknown = {node.op_type for node in graph.node} - set(OPERATORS)
        if unknown:
            raise ValueError(f"{path.name} uses operators that onnx_torch.py does not know: {sorted(unknown)}")
        self.input_name = graph.input[0].name
        self.outputs = outputs or [graph.output[0].name]
        self.constants = [tensor.name for tensor in graph.initializer]
        for index, tensor in enumerate(graph.initializer):
            self.register_buffer(f"constant{index}", torch.from_numpy(numpy_helper.to_array(tensor).copy()))
        self.steps = [
            (
                OPERATORS[node.op_type],
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
                list(node.input),
                node.output[0],
            )
            for node in graph.node
        ]
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Run the graph on ``x``."""
        values: dict[str, Tensor] = {name: getattr(self, f"constant{i}") for i, name in enumerate(self.constants)}
        values[self.input_name] = x
        for operator, attributes, inputs, output in self.steps:
            values[output] = operator(attributes, *(values[name] for name in inputs if name))
            if output == self.outputs[-1]:
                break
        return [values[name] for name in self.outputs]
