"""Small typed networks (FP16 with casts and Q/DQ) for the backends to build."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Collects nodes and weights; every operator's output is named after its node."""

    def __init__(self, dtype: type = np.float16, steps: int = 127) -> None:
        self.dtype = dtype
        self.steps = steps  # of the largest weight
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, op_type: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}:out"], name=name, **attributes))
        return f"{name}:out"

    def qdq(self, tensor: str, scale: float = 0.05) -> str:
        s = self.weight(f"{tensor}_scale", np.array(scale, self.dtype))
        zero = self.weight(f"{tensor}_zero", np.array(0, np.int8))
        quantised = self.op("QuantizeLinear", [tensor, s, zero], f"{tensor}_QuantizeLinear")
        return self.op("DequantizeLinear", [quantised, s, zero], f"{tensor}_DequantizeLinear")

    def int8_weight(self, name: str, shape: tuple[int, ...], axis: int = 0) -> str:
        value = self.rng.normal(0, 0.1, shape)
        others = tuple(i for i in range(len(shape)) if i != axis)
        scale = np.abs(value).max(others, keepdims=True) / self.steps
        integers = self.weight(f"{name}_int8", np.round(value / scale).astype(np.int8))
        scales = self.weight(f"{name}_scale", scale.ravel().astype(self.dtype))
        zeros = self.weight(f"{name}_zero", np.zeros(shape[axis], np.int8))
        return self.op("DequantizeLinear", [integers, scales, zeros], f"{name}_DequantizeLinear", axis=axis)

    def conv(self, tensor: str, name: str, shape: tuple[int, int, int, int], axis: int = 0, stride: int = 1) -> str:
        bias = self.weight(f"{name}.bias", self.rng.normal(0, 0.1, shape[0]).astype(self.dtype))
        inputs = [self.qdq(tensor), self.int8_weight(f"{name}.weight", shape, axis), bias]
        return self.op("Conv", inputs, name, pads=[shape[2] // 2] * 4, strides=[stride] * 2)

    def model(self, shape: list[int | str], last: str) -> bytes:
        batch_first = [shape[0], *(None for _ in shape[1:])]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, batch_first)]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return bytes(model.SerializeToString())


def half_net(body: Callable[[Net, str], str], shape: list[int | str], steps: int = 127) -> bytes:
    """A network that takes and gives FP32 and computes in FP16."""
    net = Net(steps=steps)
    last = body(net, net.op("Cast", ["x"], "cast_in", to=TensorProto.FLOAT16))
    return net.model(shape, net.op("Cast", [last], "cast_out", to=TensorProto.FLOAT))


def two_convolutions(batch: int | str = 1, steps: int = 127) -> bytes:
    """first (3 channels in, 3x3) -> ReLU -> second (1x1, stride 2), both planned INT8."""

    def body(net: Net, x: str) -> str:
        first = net.op("Relu", [net.conv(x, "first", (16, 3, 3, 3))], "relu")
        return net.conv(first, "second", (16, 16, 1, 1), stride=2)

    return half_net(body, [batch, 3, 16, 16], steps)
