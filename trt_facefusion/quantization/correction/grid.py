"""The grids that INT8 values stand on: symmetric about zero, with scales as they are stored."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from trt_facefusion.model.graph import read_attribute
from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.types import Array

_SMALLEST_FP16_SCALE = 2.0**-20
"""Below this, FP16's subnormals are too coarse to hold a scale (relative step above 6 %)."""


def find_output_axis(node: onnx.NodeProto) -> int:
    """The weight's axis that counts output channels."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and read_attribute(node, "transB", 0)):
        return 0
    return 1


def round_scale(scale: NDArray[np.float32] | np.float32, kind: int) -> Array:
    """``scale`` in the type it will be stored in, rounded up so that nothing new is clipped; never 0.

    Values are quantised with the scale as stored, so this rounding costs no accuracy of its own.
    """
    exact = np.asarray(scale, np.float32)
    if kind == TensorProto.FLOAT:
        return np.asarray(np.maximum(exact, np.finfo(np.float32).tiny))
    exact = np.maximum(exact, _SMALLEST_FP16_SCALE)
    stored = exact.astype(np.float16)
    rounded_up: Array = np.where(stored < exact, np.nextafter(stored, np.float16(np.inf)), stored)
    return rounded_up


def compute_activation_scale(amax: float, kind: int, levels: int = INT8_MAX) -> Array:
    """The scale of an activation quantised over ``amax`` in so many ``levels``, in the type it will be stored in."""
    return round_scale(np.float32(amax / levels), kind)


def find_pair_peaks(weight: Array, axis: int) -> Array:
    """The largest sum of two neighbours of one sign, for each output channel (``axis``) of ``weight``.

    Neighbours are the input channels 2k and 2k + 1 at one tap: a processor without VNNI multiplies them with 0..255 and
    adds both products in 16 bits. With ``peak / 127`` as the scale, two rounded neighbours are 128 steps at most, and
    255 * 128 < 2**15.
    """
    inputs_first = np.moveaxis(weight, (1 - axis, axis), (0, 1))
    if len(inputs_first) % 2:
        inputs_first = np.concatenate([inputs_first, np.zeros_like(inputs_first[:1])])
    sums = (np.maximum(signed, 0) for signed in (inputs_first, -inputs_first))
    peaks = [(positive[0::2] + positive[1::2]).max(axis=(0, *range(2, weight.ndim))) for positive in sums]
    return np.asarray(np.maximum(*peaks))


def quantise_weight(
    weight: NDArray[np.float32], axis: int, kind: int, *, pairs: bool = False
) -> tuple[NDArray[np.int8], Array]:
    """Symmetric INT8 values and one scale per output channel (``axis``): ``weight ~ values * scale``.

    With ``pairs`` no two neighbours saturate (see `find_pair_peaks`).
    """
    other_axes = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.maximum(weight.max(axis=other_axes), -weight.min(axis=other_axes))
    if pairs:
        peak = np.maximum(peak, find_pair_peaks(weight, axis))
    scale = round_scale(peak / INT8_MAX, kind)
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = weight / scale.astype(np.float32).reshape(shape)
    np.rint(steps, out=steps)  # in place: weights may be large
    np.clip(steps, -INT8_MAX, INT8_MAX, out=steps)
    return steps.astype(np.int8), scale


def fake_quantise(values: NDArray[np.float32], scale: np.float32, levels: int = INT8_MAX) -> NDArray[np.float32]:
    """``values`` as an INT8 layer sees them: on the grid of ``scale``, clipped to ``levels`` of its steps."""
    steps = np.clip(np.rint(values / scale), -levels, levels)
    return np.asarray(steps * scale, np.float32)
