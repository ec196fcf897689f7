"""How strongly each face drives a generator: features by which faces that widen INT8 ranges are found."""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.model.graph import GraphView, PreparedModel
from trt_facefusion.quantization.calibration import Histogram
from trt_facefusion.types import Progress, silent

_READERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_QUANTILE = 0.9999
_FLOOR = 2.0**-20


def measure_activations(prepared: PreparedModel, feeder: Feeder, progress: Progress = silent) -> NDArray[np.float64]:
    """log2 of the 99.99th percentile of the magnitudes of every tensor that INT8 would quantise, per face [N,T].

    Each face is the target once, with the identity of another (`Feeder`); one inference per face.

    Raises:
        ModelError: the model cannot be run.
    """
    tensors = list_driven_tensors(GraphView(prepared.model))
    count = len(feeder.faces)
    features = np.zeros((count, len(tensors)))
    with OnnxRuntimeRunner(_tap(prepared.model, tensors), ours="the prepared graph") as runner:
        for index in range(count):
            outputs = runner.infer(feeder([index]))
            features[index] = [compute_level(_count(outputs[name][:1])) for name in tensors]
            progress("activations", index + 1, count)
    return features


def list_driven_tensors(view: GraphView) -> list[str]:
    """The activations that convolutions and matrix products read, in the order of the graph."""
    read = (name for node in view.float_nodes() if node.op_type in _READERS for name in node.input)
    produced = {name for node in view.float_nodes() for name in node.output}
    return [name for name in dict.fromkeys(read) if name in produced]


def compute_level(histogram: Histogram) -> float:
    """log2 of the 99.99th percentile of the magnitudes."""
    reached = np.cumsum(histogram.counts)
    place = int(np.searchsorted(reached, _QUANTILE * reached[-1]))
    return math.log2(max((place + 1) * histogram.bin_width, _FLOOR))


def _tap(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return copy


def _count(values: NDArray[np.floating]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram
