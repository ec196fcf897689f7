"""Small generators and pictures on which a whole build takes a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.faces.converter import EmbeddingConverter

SIZE = 32
Settings = Callable[..., BuildSettings]
_CHANNELS = 8


class _Graph:
    """Collects nodes and weights; every method gives the name of its output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int, scale: float = 1.0) -> str:
        values = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, source: str, name: str, channels: int, into: int, kernel: int = 3) -> str:
        spread = 0.7 / np.sqrt(channels * kernel * kernel)
        weight = self.weight(f"{name}.weight", into, channels, kernel, kernel, scale=spread)
        bias = self.weight(f"{name}.bias", into, scale=0.05)
        return self.node("Conv", [source, weight, bias], name, pads=[kernel // 2] * 4)

    def block(self, source: str, name: str) -> str:
        """conv - instance norm - relu - conv, added to its input."""
        inner = self.conv(source, f"{name}.conv1", _CHANNELS, _CHANNELS)
        ones = numpy_helper.from_array(np.ones(_CHANNELS, np.float32), f"{name}.gain")
        zeros = numpy_helper.from_array(np.zeros(_CHANNELS, np.float32), f"{name}.shift")
        self.weights += [ones, zeros]
        inner = self.node("InstanceNormalization", [inner, ones.name, zeros.name], f"{name}.norm")
        inner = self.conv(self.node("Relu", [inner], f"{name}.relu"), f"{name}.conv2", _CHANNELS, _CHANNELS)
        return self.node("Add", [source, inner], f"{name}.add")


def generator(
    *,
    size: int = SIZE,
    batch: int | str = "N",
    embedding: int | None = None,
    blocks: int = 2,
    extra: str | None = None,
    two_outputs: bool = False,
    branches: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """A face generator in miniature: ``image`` (and ``identity``) -> ``picture`` in 0..1.

    ``extra`` is an operator of one input that is put before the head; ``batch`` a number makes it fixed; ``branches``
    adds two convolutions to each other.
    """
    graph = _Graph(seed)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])]
    x = first = graph.node("Relu", [graph.conv("image", "stem", 3, _CHANNELS)], "stem.relu")
    if embedding is not None:
        inputs.append(helper.make_tensor_value_info("identity", TensorProto.FLOAT, [batch, embedding]))
        style = graph.node("Gemm", ["identity", graph.weight("style.weight", embedding, _CHANNELS, scale=0.3)], "style")
        axes = numpy_helper.from_array(np.array([2, 3], np.int64), "style.axes")
        graph.weights.append(axes)
        x = graph.node("Mul", [x, graph.node("Unsqueeze", [style, axes.name], "style.plane")], "style.mul")
    for index in range(blocks):
        x = graph.block(x, f"block{index}")
    x = graph.node("Concat", [x, first], "skip", axis=1)
    x = graph.node("Relu", [graph.conv(x, "merge", 2 * _CHANNELS, _CHANNELS)], "merge.relu")
    if branches:
        sides = [graph.conv(x, f"{side}.conv", _CHANNELS, _CHANNELS) for side in ("left", "right")]
        x = graph.node("Add", sides, "branches.add")
    if extra is not None:
        x = graph.node(extra, [x], "extra")
    head = graph.conv(x, "head", _CHANNELS, 3)
    outputs = [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 3, size, size])]
    graph.nodes.append(helper.make_node("Sigmoid", [head], ["picture"], name="head.sigmoid"))
    if two_outputs:
        graph.nodes.append(helper.make_node("ReduceMean", [head], ["mask"], name="mask.mean", keepdims=1, axes=[1]))
        outputs.insert(0, helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, 1, size, size]))
    opset = 17 if two_outputs else 20
    model = helper.make_model(
        helper.make_graph(graph.nodes, "tiny", inputs, outputs, graph.weights),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write ``model`` to ``path``."""
    onnx.save(model, path)
    return path


def picture(seed: int, size: int = 64) -> NDArray[np.uint8]:
    """A smooth random picture [size,size,3], unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (6, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def write_pictures(folder: Path, seeds: Sequence[int], size: int = 64) -> Path:
    """One PNG for each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        cv2.imwrite(str(folder / f"{seed:04d}.png"), picture(seed, size))
    return folder


class Glance:
    """An embedder that takes no time: 128 coarse grey values of the chip, so that different pictures lie far apart."""

    name = "glance"
    template = "dlib_150"
    size = 150
    same_person = 0.5
    other_person = 0.6
    dim = 128
    digest = hashlib.sha256(b"glance").hexdigest()

    def __init__(self, converter: EmbeddingConverter | None = None) -> None:
        self.converter = converter
        self.fed_dim = self.dim if converter is None else converter.dim

    def embed(self, chips: NDArray[np.uint8]) -> NDArray[np.float32]:
        coarse = [cv2.resize(chip, (16, 8), interpolation=cv2.INTER_AREA).mean(2).ravel() for chip in chips]
        return self.make_comparable(np.array(coarse, np.float32).reshape(-1, 128) - 127.5)

    def make_comparable(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-6)
