"""A scale and a shift for every channel in front of the quantiser, undone by the weights and the bias behind it.

TensorRT runs a convolution in INT8 only if its activations share one scale, symmetric about zero. What a rectifier
gives is not symmetric: half of the 255 steps would stay unused. Shifting each channel to the middle of its range, and
adding what the weights make of the shift to the bias, changes nothing in exact arithmetic and uses all of the steps.

A convolution pads with zeros, and a shifted zero is another number in each channel. So the padding is done in front of
the shift, by a Pad of its own. TensorRT-RTX fuses it with the scale, the shift and the quantiser; a kernel more is made
only where one tensor is read with two paddings, or where a normalisation in front would be in the same kernel.

Source: X. Wei et al., "Outlier Suppression+: Accurate quantization of large language models by equivalent and
effective shifting and scaling", EMNLP 2023; here the scales are powers of two and the shifts FP16 numbers, so that
neither rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from trt_facefusion.model.graph import read_attribute
from trt_facefusion.types import Array

SUFFIX = "__equalised"
UNSHIFTED_SUFFIX = "__unshifted"
OFFSETS = "__offsets"
Pads = tuple[int, ...]
"""A convolution's ``pads``: top, left, bottom, right; empty for none."""


@dataclass(frozen=True)
class Affine:
    """What the channels of one tensor go through: ``x * 2**-exponents - offsets``, both [C].

    ``offsets`` are representable in FP16.
    """

    exponents: NDArray[np.int8]
    offsets: NDArray[np.float32]

    @property
    def scales(self) -> bool:
        """Whether any channel is scaled."""
        return bool(np.any(self.exponents))

    @property
    def shifts(self) -> bool:
        """Whether any channel is shifted."""
        return bool(np.any(self.offsets))

    @property
    def factors(self) -> NDArray[np.float32]:
        """Factors [C] that undo the scale: what the weights of each input channel are multiplied with."""
        return np.exp2(self.exponents.astype(np.float32))

    def without_shift(self) -> Affine:
        """The scale alone."""
        return Affine(self.exponents, np.zeros_like(self.offsets))

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """``values`` [N,C,...] behind scale and shift."""
        shape = (1, -1, *(1,) * (values.ndim - 2))
        return np.asarray(values / self.factors.reshape(shape) - self.offsets.reshape(shape), np.float32)


Affines = Mapping[str, Affine]
"""Tensor -> its scale and shift."""


def name_equalised(tensor: str) -> str:
    """The name of a tensor behind its scale and shift: what the calibration table holds its range under."""
    return f"{tensor}{SUFFIX}"


def name_unshifted(tensor: str) -> str:
    """What the calibration table holds the range of a tensor under that is scaled only, though it could be shifted."""
    return f"{tensor}{UNSHIFTED_SUFFIX}"


def name_padded(tensor: str, pads: Pads) -> str:
    """The name of a tensor behind the padding that a convolution would otherwise do itself."""
    return f"{tensor}__pad{'_'.join(map(str, pads))}" if pads else tensor


def pad_output_name(padded: str) -> str:
    """The tensor that the Pad of a `padded_name` gives."""
    return f"{padded}__in"


def name_scaled(padded: str) -> str:
    """The tensor between scale and shift."""
    return f"{padded}__scaled"


def read_explicit_pads(node: onnx.NodeProto, affine: Affine) -> Pads:
    """The padding that has to be done in front of the shift; empty where zero stays zero or nothing is padded."""
    pads = read_integers(node, "pads")
    return pads if affine.shifts and any(pads) else ()


def read_integers(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    """A node's attribute that holds integers; empty where it is not written."""
    return tuple(size for entry in node.attribute if entry.name == name for size in entry.ints)


def can_shift(node: onnx.NodeProto) -> bool:
    """Whether the padding of a convolution is known and can be done before it."""
    return read_attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID", "NOTSET", "VALID")


def make_affine_nodes(
    tensor: str, source: str, affine: Affine, pads: Pads, dtype: np.dtype[Any]
) -> tuple[list[onnx.NodeProto], dict[str, Array], str]:
    """Nodes that take ``source`` (the values of ``tensor``, in ``dtype``) through padding, scale and shift.

    Returns:
        The nodes, the constants that they read, and the name of the result.
    """
    padded = name_padded(tensor, pads)
    equalised = name_equalised(padded)
    reciprocals, offsets, sizes = f"{tensor}__reciprocals", f"{tensor}{OFFSETS}", f"{padded}__sizes"
    constants: dict[str, Array] = {}
    nodes = []
    if pads:
        constants[sizes] = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
        nodes.append(helper.make_node("Pad", [source, sizes], [pad_output_name(padded)], name=f"{padded}__pad"))
        source = pad_output_name(padded)
    if affine.scales or not affine.shifts:
        scaled = name_scaled(padded) if affine.shifts else equalised
        constants[reciprocals] = (1 / affine.factors).reshape(1, -1, 1, 1).astype(dtype)
        nodes.append(helper.make_node("Mul", [source, reciprocals], [scaled], name=f"{padded}__equalise"))
        source = scaled
    if affine.shifts:
        constants[offsets] = affine.offsets.reshape(1, -1, 1, 1).astype(dtype)
        nodes.append(helper.make_node("Sub", [source, offsets], [equalised], name=f"{padded}__shift"))
    return nodes, constants, equalised


def fold_weight(weight: NDArray[np.float32], affine: Affine) -> NDArray[np.float32]:
    """A convolution's weights [O,C,...] for channels that were scaled."""
    return np.asarray(weight * affine.factors.reshape(1, -1, *(1,) * (weight.ndim - 2)), np.float32)


def fold_bias(weight: NDArray[np.float32], bias: NDArray[np.float32] | None, affine: Affine) -> NDArray[np.float32]:
    """A convolution's bias [O] with what its (unscaled) ``weight`` [O,C,...] makes of the shift."""
    taps = fold_weight(weight, affine).astype(np.float64).sum(tuple(range(2, weight.ndim)))
    shift = taps @ affine.offsets.astype(np.float64)
    return np.asarray(shift if bias is None else bias.astype(np.float64) + shift, np.float32)


def clear_pads(node: onnx.NodeProto) -> None:
    """Make a convolution pad nothing itself."""
    for candidate in node.attribute:
        if candidate.name == "pads":
            candidate.ints[:] = [0] * len(candidate.ints)
