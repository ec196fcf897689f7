"""Learned perceptual distances: AlexNet's features, weighed as people judged, as an ONNX that onnxruntime runs.

The graph is written from the published descriptions (R. Zhang et al., "The unreasonable effectiveness of deep features
as a perceptual metric", CVPR 2018; A. Ghildyal and F. Liu, "Shift-tolerant perceptual similarity metric", ECCV 2022)
and the weights; no code of the packages that ship these is run, so neither torch nor what they import is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.evaluation.accuracy.metric import PerFace, Pictures
from trt_facefusion.evaluation.accuracy.torch_weights import Weights
from trt_facefusion.model import sessions

if TYPE_CHECKING:
    import onnxruntime

LAYERS = 5
"""Places at which features are taken."""
LEAST_SIDE_PX = 32
_MOST_PIXELS = 1 << 20
"""Of the pictures of one side that are measured: 64 faces of 128 px, 16 of 256 px; a pair of 128 px takes 80 ms of a
processor, four times what the bundled distance takes."""
_LEAST_FACES = 8
_BATCH_PIXELS = 4 * 128 * 128
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What LPIPS takes pictures in [-1,1] to: mean and deviation of ImageNet's."""
_EPSILON = 1e-10
_OPSET = 18

Step = tuple[str, dict[str, Any]]


def conv(key: str, *, stride: int = 1, pad: int = 0) -> Step:
    """A convolution with the weights ``key``.weight and ``key``.bias."""
    return "conv", {"key": key, "stride": stride, "pad": pad}


def blur(key: str) -> Step:
    """A low-pass of 3x3 with the weights ``key``.filt, and every second pixel of it; two reflected on each side."""
    return "blur", {"key": key}


def pool(stride: int) -> Step:
    """The maximum of 3x3 pixels."""
    return "pool", {"stride": stride}


RELU: Step = ("relu", {})
TAP: Step = ("tap", {})
"""Here features are taken."""


class _Writer:
    """Writes a graph node by node."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.nodes, self.constants = weights, list[onnx.NodeProto](), list[onnx.TensorProto]()

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def weight(self, key: str) -> str:
        return self.constant(self.weights[key])

    def step(self, value: str, step: Step) -> str:
        kind, of = step
        if kind == "conv":
            pads, strides = [of["pad"]] * 4, [of["stride"]] * 2
            weight, bias = self.weight(f"{of['key']}.weight"), self.weight(f"{of['key']}.bias")
            return self.add("Conv", value, weight, bias, pads=pads, strides=strides)
        if kind == "blur":
            padded = self.add("Pad", value, self.constant([0, 0, 2, 2] * 2, np.int64), mode="reflect")
            filt = self.weights[f"{of['key']}.filt"]
            return self.add("Conv", padded, self.constant(filt), strides=[2, 2], group=len(filt))
        if kind == "pool":
            return self.add("MaxPool", value, kernel_shape=[3, 3], strides=[of["stride"]] * 2)
        return self.add("Relu", value)

    def distance(self, features: str, weight: str) -> str:
        """The weighed distance [N,1,1,1] between the first and the second half of ``features`` [2N,C,h,w]."""
        axes = self.constant([1], np.int64)
        norm = self.add("ReduceL2", features, axes, keepdims=1)
        unit = self.add("Div", features, self.add("Add", norm, self.constant(_EPSILON)))
        first, second = f"{unit}_a", f"{unit}_b"
        self.nodes.append(
            helper.make_node("Split", [unit], [first, second], name=f"{unit}_split", axis=0, num_outputs=2)
        )
        apart = self.add("Sub", first, second)
        weighed = self.add("Conv", self.add("Mul", apart, apart), self.weight(weight))
        return self.add("ReduceMean", weighed, self.constant([2, 3], np.int64), keepdims=1)


def write_distance(steps: Sequence[Step], weights: Weights) -> onnx.ModelProto:
    """The network: two sets of RGB pictures [N,3,H,W] in [0,1], ``reference`` and ``candidate`` -> ``distance`` [N].

    Raises:
        ModelError: ``weights`` lack a tensor, or one has another shape.
    """
    writer = _Writer(weights)
    try:
        value = writer.add("Concat", "reference", "candidate", axis=0)
        # (2x - 1 - shift) / scale
        middle, half = (1 + np.array(_SHIFT)) / 2, np.array(_SCALE) / 2
        value = writer.add("Sub", value, writer.constant(middle.reshape(1, 3, 1, 1)))
        value = writer.add("Div", value, writer.constant(half.reshape(1, 3, 1, 1)))
        distances: list[str] = []
        for step in steps:
            if step[0] == "tap":
                distances.append(writer.distance(value, f"lin{len(distances)}.model.1.weight"))
            else:
                value = writer.step(value, step)
        total = writer.add("Sum", *distances)
        writer.nodes.append(helper.make_node("Flatten", [total], ["flat"], name="flat"))
        writer.nodes.append(helper.make_node("Squeeze", ["flat", writer.constant([1], np.int64)], ["distance"]))
        return _finish(writer)
    except KeyError as error:
        raise ModelError(f"the weights lack the tensor {error}", "name weights of AlexNet as LPIPS has them") from error


def _finish(writer: _Writer) -> onnx.ModelProto:
    pictures: list[str | int | None] = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        writer.nodes,
        "perceptual_distance",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, pictures) for name in ("reference", "candidate")],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["N"])],
        writer.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


class LearnedDistance:
    """Distances of pictures by a network that `write_distance` wrote; the session opens on first use."""

    def __init__(self, steps: Sequence[Step], weights: Weights) -> None:
        self.model = write_distance(steps, weights)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        try:
            return sessions.open_session(self.model.SerializeToString(), sessions.make_session_options(2))
        except Exception as error:  # onnxruntime has one exception type per failure and no common base
            raise ModelError(
                f"the perceptual network cannot be opened: {error}", "name weights of AlexNet as LPIPS has them"
            ) from error

    def __call__(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """The distance [N] between pictures [N,H,W,3] in [0,1]; sides of at least ``LEAST_SIDE_PX``."""
        if reference.shape != candidate.shape:
            raise ValueError(f"pictures differ in shape: {reference.shape} and {candidate.shape}")
        batch = max(1, _BATCH_PIXELS // max(1, reference.shape[1] * reference.shape[2]))
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(reference), batch):
            part = slice(start, start + batch)
            feeds = {"reference": _to_planes(reference[part]), "candidate": _to_planes(candidate[part])}
            parts.append(self._session.run(["distance"], feeds)[0])
        return np.concatenate(parts).astype(np.float64)


def count_measured(faces: int, height: int, width: int) -> int:
    """How many of ``faces`` pictures are measured: of large ones only as many as do not make judging slow."""
    return min(faces, max(_LEAST_FACES, _MOST_PIXELS // (height * width)))


def _to_planes(pictures: Pictures) -> NDArray[np.float32]:
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)
