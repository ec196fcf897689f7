"""Small networks in FP32 ONNX, written node by node, for the tests of several packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.model.sessions import make_session_options, open_session

Shape = Sequence[int | str]


class Net:
    """Collects nodes and weights. Each operator's output bears its node's name."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def op(self, op_type: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: object) -> str:
        """Add a node; gives the name of its first output."""
        name = name or f"{op_type}_{len(self.nodes)}"
        names = [name] + [f"{name}.{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attributes))
        return name

    def conv(self, x: str, c_in: int, c_out: int, kernel: int = 3, name: str = "", **attributes: object) -> str:
        shape = (c_out, c_in // int(attributes.get("group", 1)), kernel, kernel)
        weight = self.const(self.rng.normal(0, np.prod(shape[1:]) ** -0.5, shape))
        bias = self.const(self.rng.normal(0, 0.1, c_out))
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.op("Conv", x, weight, bias, name=name, **attributes)

    def linear(self, x: str, n_in: int, n_out: int, name: str = "", std: float = 0.2) -> str:
        weight = self.const(self.rng.normal(0, std, (n_out, n_in)))
        return self.op("Gemm", x, weight, self.const(np.zeros(n_out)), name=name, transB=1)

    def reflect_pad(self, x: str, pixels: int) -> str:
        pads = self.const([0, 0, pixels, pixels, 0, 0, pixels, pixels], np.int64)
        return self.op("Pad", x, pads, mode="reflect")

    def upsample(self, x: str) -> str:
        return self.op("Resize", x, "", self.const([1, 1, 2, 2]), mode="linear")

    def instance_norm(self, x: str, name: str, eps: float = 1e-8) -> str:
        """Instance normalisation in primitive operators, as SimSwap and inswapper write it."""
        axes = self.const([2, 3], np.int64)
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes, name=f"{name}/mean"), name=f"{name}/centred")
        square = self.op("Mul", centred, centred, name=f"{name}/square")
        variance = self.op("ReduceMean", square, axes, name=f"{name}/variance")
        safe = self.op("Add", variance, self.const(eps), name=f"{name}/eps")
        return self.op("Div", centred, self.op("Sqrt", safe, name=f"{name}/sqrt"), name=f"{name}/div")

    def adain(self, x: str, style: str, channels: int, name: str, dim: int) -> str:
        normed = self.instance_norm(x, name)
        both = self.linear(style, dim, 2 * channels, name=f"{name}/style")
        both = self.op("Unsqueeze", both, self.const([2, 3], np.int64))
        scale = self.op("Split", both, axis=1, num_outputs=2, outputs=2)
        scaled = self.op("Mul", normed, scale, name=f"{name}/scale")
        return self.op("Add", scaled, f"{scale}.1", name=f"{name}/shift")

    def model(
        self, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], opset: int = 20, ir: int = 10
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def save_converter(path: Path, n_in: int = 512, n_out: int = 512, seed: int = 0) -> Path:
    """A converter of embeddings as crossface has it in small: normalises inside, one linear layer, not normalised."""
    net = Net(seed)
    unit = net.op("LpNormalization", "input", axis=1, p=2)
    onnx.save(net.model({"input": [1, n_in]}, {net.linear(unit, n_in, n_out, "output", 0.5): [1, n_out]}), path)
    return path


def save_arcface(path: Path, dim: int = 512) -> Path:
    """A network of ArcFace's border that tells pictures apart: coarse values of a chip, put through a fixed matrix."""
    net = Net(7)
    coarse = net.op("AveragePool", "x", kernel_shape=[14, 14], strides=[14, 14])
    net.linear(net.op("Flatten", coarse), 3 * 8 * 8, dim, "y", 0.1)
    onnx.save(net.model({"x": ["N", 3, 112, 112]}, {"y": ["N", dim]}), path)
    return path


SWAPPER_SHAPES = {"target": (3, 32, 32), "source": (64,)}


def swapper(width: int = 8, blocks: int = 2, size: int = 32, embedding: int = 64) -> onnx.ModelProto:
    """A swapper of inswapper's build, with random weights: target [N,3,S,S], source [N,embedding] -> [N,3,S,S]."""
    net = Net()

    def act(x: str) -> str:
        return net.op("LeakyRelu", x, alpha=0.2)

    x = act(net.conv(net.reflect_pad("target", 3), 3, width, 7, "stem", pads=[0] * 4))
    x = act(net.conv(x, width, 2 * width, name="down1", strides=[2, 2]))
    x = act(net.conv(x, 2 * width, 4 * width, name="down2", strides=[2, 2]))
    for i in range(blocks):
        y = x
        for half in ("a", "b"):
            name = f"block{i}{half}"
            y = net.conv(net.reflect_pad(y, 1), 4 * width, 4 * width, name=name, pads=[0] * 4)
            y = net.adain(y, "source", 4 * width, f"{name}/adain", embedding)
            y = net.op("Relu", y) if half == "a" else y
        x = net.op("Add", x, y, name=f"block{i}/add")
    x = act(net.conv(net.upsample(x), 4 * width, 2 * width, name="up1"))
    x = act(net.conv(net.upsample(x), 2 * width, width, name="up2"))
    x = net.op("Tanh", net.conv(net.reflect_pad(x, 3), width, 3, 7, "to_rgb", pads=[0] * 4), name="tanh")
    x = net.op("Mul", net.op("Add", x, net.const(1.0), name="plus_one"), net.const(0.5), name="half")
    inputs = {"target": ["N", 3, size, size], "source": ["N", embedding]}
    return net.model(inputs, {net.op("Identity", x, name="output"): ["N", 3, size, size]})


def feeds(shapes: Mapping[str, Sequence[int]], batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Pictures (smooth, in [0,1]) for image inputs, unit vectors for the others."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, shape in shapes.items():
        if len(shape) == 3:
            y, x = np.mgrid[0 : shape[1], 0 : shape[2]] / shape[1]
            waves = rng.uniform(1, 9, (batch, shape[0], 4, 1, 1))
            value = 0.5 + 0.25 * (
                np.sin(waves[:, :, 0] * x + waves[:, :, 1]) + np.cos(waves[:, :, 2] * y + waves[:, :, 3] * x)
            )
        else:
            value = rng.normal(size=(batch, *shape))
            value /= np.linalg.norm(value, axis=1, keepdims=True)
        result[name] = value.astype(np.float32)
    return result


def run(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], exact: bool = False) -> dict[str, np.ndarray]:
    """All outputs of ``model`` in onnxruntime; ``exact`` keeps it from fusing Q/DQ into integer kernels."""
    options = make_session_options(threads=1)
    if exact:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = open_session(model, options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def tapped(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """``model`` with the float ``tensors`` as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = {value.name for value in copy.graph.output}
    copy.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in tensors if t not in own)
    return copy


def ranges(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest magnitude of every float tensor of a prepared model on ``inputs``."""
    floats = [v.name for v in model.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    seen = run(tapped(model, floats), inputs) | dict(inputs)
    return {name: float(np.abs(value).max()) for name, value in seen.items()}
