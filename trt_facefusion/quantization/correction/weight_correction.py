"""Weights and biases of INT8 layers, chosen so that a layer's output stays nearest to FP32's on calibration faces.

Three things that need no training and no more data than the moments of a layer's inputs:

* **scales**: each output channel gets the weight scale with the smallest squared error, each weight's error counted by
  the variance of what it is multiplied with; the largest weight then may be clipped.
* **rounding** (`rounding`): weights are rounded one after another, each passing its error on to those that follow.
* **bias**: what is left of the mean error goes into the bias. Source: M. Nagel et al., "Data-Free Quantization Through
  Weight Equalization and Bias Correction", ICCV 2019; here the means are measured.

Each layer is corrected for itself, from FP32 inputs that go through its quantiser. So a correction depends on the layer
and its range only, and stays right whichever other layers a plan raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.model.graph import GraphView, read_attribute
from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.channel_affine import (
    Affine,
    can_shift,
    fold_bias,
    fold_weight,
    read_integers,
)
from trt_facefusion.quantization.correction.clipping import find_best_scales
from trt_facefusion.quantization.correction.grid import (
    compute_activation_scale,
    fake_quantise,
    find_output_axis,
    find_pair_peaks,
    round_scale,
)
from trt_facefusion.types import Array

_Floats = NDArray[np.float64]
_SHRINKS = np.linspace(1.0, 0.7, 31)


@dataclass(frozen=True)
class Correction:
    """An INT8 layer's weights (as the node has them), their scale per output channel as stored, and its bias."""

    values: NDArray[np.int8]
    scale: Array
    bias: NDArray[np.float32]


Corrections = Mapping[str, Correction]
"""Node -> its correction."""


@dataclass(frozen=True)
class CorrectableLayer:
    """A layer that can be corrected: its matrix [O,K] and bias [O] behind `Affine`, and the scale of its input.

    A column of the matrix is one weight of each output channel: input channel by input channel, tap by tap. With
    ``pairs``, no two neighbouring weights may saturate in 16 bits (`grid.find_pair_peaks`). ``levels`` are the steps of
    the input's grid either way from zero.
    """

    node: onnx.NodeProto
    weight_shape: tuple[int, ...]
    matrix: _Floats
    bias: _Floats
    affine: Affine | None
    scale: np.float32
    element_type: int
    pairs: bool = False
    levels: int = INT8_MAX

    def columns(self, values: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """What each column is multiplied with: groups of columns [k] and their factors [k,n] for a batch of inputs."""
        if self.node.op_type == "Gemm":
            yield slice(None), np.ascontiguousarray(values.T)
            return
        strides, dilations = _read_pair(self.node, "strides"), _read_pair(self.node, "dilations")
        height, width = self.weight_shape[2:]
        taps = [(i * dilations[0], j * dilations[1]) for i in range(height) for j in range(width)]
        rows, cols = values.shape[2] - taps[-1][0], values.shape[3] - taps[-1][1]
        for index, (top, left) in enumerate(taps):
            window = values[:, :, top : top + rows : strides[0], left : left + cols : strides[1]]
            yield slice(index, None, len(taps)), window.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)

    def find_smallest_scales(self) -> _Floats:
        """Scales [O] below which products may saturate; 0 where they cannot."""
        if not self.pairs:
            return np.zeros(len(self.matrix))
        channels = self.weight_shape[1] if self.node.op_type == "Conv" else self.matrix.shape[1]
        return find_pair_peaks(self.matrix.reshape(len(self.matrix), channels, -1), 0) / INT8_MAX

    def without_weights(self) -> CorrectableLayer:
        """The layer for `InputMoments`, which need its columns but not what is in them."""
        return replace(self, matrix=np.broadcast_to(np.zeros(1), self.matrix.shape))

    def inputs(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The node's FP32 input as the quantiser gets it: padded, scaled and shifted."""
        if self.node.op_type == "Conv":
            top, left, bottom, right = read_integers(self.node, "pads") or (0, 0, 0, 0)
            values = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
        return values if self.affine is None else self.affine.apply(values)


def read_layer(
    view: GraphView,
    name: str,
    affine: Affine | None,
    amax: float,
    element_type: int,
    *,
    pairs: bool = False,
    levels: int = INT8_MAX,
) -> CorrectableLayer | None:
    """The node ``name`` as a layer whose input is quantised over ``amax``; None where it cannot be corrected.

    Left alone are matrix products without a bias to correct, biases that are computed, grouped convolutions and
    padding that is not written out.
    """
    node = view.nodes[name]
    weight = view.constant(node.input[1]).astype(np.float32, copy=False)
    if view.computes_bias(node):
        return None
    bias_name = view.bias(node)
    bias = None if bias_name is None else view.constant(bias_name)
    if node.op_type == "Conv":
        if read_attribute(node, "group", 1) != 1 or weight.ndim != 4 or not can_shift(node):
            return None
        matrix = weight if affine is None else fold_weight(weight, affine)
    elif node.op_type == "Gemm" and _is_plain(node):
        matrix = weight if read_attribute(node, "transB", 0) else weight.T
    else:
        return None
    if bias is not None and bias.size != len(matrix):
        return None
    start = np.zeros(len(matrix), np.float32) if bias is None else bias.reshape(-1).astype(np.float32)
    folded = start if affine is None else fold_bias(weight, start, affine)
    scale = compute_activation_scale(amax, element_type, levels).astype(np.float32)
    flat = matrix.reshape(len(matrix), -1).astype(np.float64)
    return CorrectableLayer(
        node, weight.shape, flat, folded.astype(np.float64), affine, np.float32(scale), element_type, pairs, levels
    )


def _is_plain(node: onnx.NodeProto) -> bool:
    defaults = (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    return all(read_attribute(node, name, default) == default for name, default in defaults)


class InputMoments:
    """Sums over everything that a layer's columns are multiplied with, before and behind the quantiser."""

    def __init__(self, layer: CorrectableLayer) -> None:
        columns = layer.matrix.shape[1]
        self.layer = layer.without_weights()
        self.count = 0
        self._exact, self._rounded, self._squares = np.zeros(columns), np.zeros(columns), np.zeros(columns)

    def add(self, values: NDArray[np.float32]) -> None:
        """Take a batch of the node's FP32 inputs."""
        exact = self.layer.inputs(values)
        rounded = fake_quantise(exact, self.layer.scale, self.layer.levels)
        for (columns, before), (_, behind) in zip(self.layer.columns(exact), self.layer.columns(rounded), strict=True):
            self._exact[columns] += before.sum(1, dtype=np.float64)
            self._rounded[columns] += behind.sum(1, dtype=np.float64)
            self._squares[columns] += np.einsum("ij,ij->i", behind, behind, dtype=np.float64)
        self.count += before.shape[1]

    @property
    def means(self) -> tuple[_Floats, _Floats]:
        """Means [K] before and behind the quantiser."""
        return self._exact / self.count, self._rounded / self.count

    @property
    def variances(self) -> _Floats:
        """Variances [K] behind the quantiser."""
        return np.maximum(self._squares / self.count - self.means[1] ** 2, 0)


def choose_weight_scales(layer: CorrectableLayer, moments: InputMoments | None) -> Array:
    """A weight scale for every output channel, as stored: from the largest weight, or with the smallest error.

    The error is that of the output, ``sum_k var_k * (w_k - quantised w_k)**2``; scales down to 0.7 times the usual one
    are tried.
    """
    peak = np.maximum(layer.matrix.max(axis=1), -layer.matrix.min(axis=1))
    smallest = layer.find_smallest_scales()

    def shrink_to(share: float) -> Array:
        exact = np.maximum(share * peak / INT8_MAX, smallest)
        return round_scale(exact.astype(np.float32), layer.element_type)

    if moments is None:
        return shrink_to(1.0)
    scales = np.stack([shrink_to(share) for share in _SHRINKS])
    return find_best_scales(layer.matrix, scales, moments.variances)


def round_to_nearest(matrix: _Floats, scale: Array) -> _Floats:
    """``matrix`` [O,K] in steps of ``scale`` [O], rounded to the nearest and clipped."""
    steps = matrix / _take_column(scale)
    np.rint(steps, out=steps)
    return np.clip(steps, -INT8_MAX, INT8_MAX, out=steps)


def correct_layer(layer: CorrectableLayer, steps: _Floats, scale: Array, moments: InputMoments | None) -> Correction:
    """The correction that gives the layer the weights ``steps * scale`` and, with ``moments``, no mean error."""
    bias = layer.bias
    if moments is not None:
        exact, rounded = moments.means
        bias = bias + layer.matrix @ exact - (steps * _take_column(scale)) @ rounded
    ordered = steps if find_output_axis(layer.node) == 0 else steps.T
    values = np.ascontiguousarray(ordered.astype(np.int8)).reshape(layer.weight_shape)
    return Correction(values, scale, bias.astype(np.float32))


def _read_pair(node: onnx.NodeProto, name: str) -> tuple[int, int]:
    first, second = read_integers(node, name) or (1, 1)
    return first, second


def _take_column(scale: Array) -> _Floats:
    return scale.astype(np.float64)[:, None]
