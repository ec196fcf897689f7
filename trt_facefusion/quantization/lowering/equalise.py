"""Channel equalisation: one INT8 scale per tensor, and yet no channel drowned by a larger one.

TensorRT runs a convolution in INT8 only if its activations share one scale, so channels of a small range get few of the
255 steps (a skip connection concatenated with a decoder branch is the worst case). Dividing each channel by a factor
before the quantiser, and multiplying the weights of that input channel with it, changes nothing in exact arithmetic and
evens the channels out. The division is one elementwise product, which backends fuse into the quantiser's kernel.

Source: G. Xiao et al., "SmoothQuant", ICML 2023 (the factor's formula); here the factors are powers of two, so that
neither FP16 nor the weights round differently for it. What the channels go through is described in
`channel_affine`: with the scale comes a shift. Without one, the scale may be folded into what makes the tensor
(`folding`), and the product is saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from trt_facefusion.model.graph import GraphView, read_attribute
from trt_facefusion.quantization.calibration.channels import ChannelRanges
from trt_facefusion.quantization.calibration.taps import ScaledTensor
from trt_facefusion.quantization.correction.channel_affine import (
    Affine,
    Affines,
    Pads,
    can_shift,
    clear_pads,
    fold_bias,
    fold_weight,
    make_affine_nodes,
    name_equalised,
    name_padded,
    name_scaled,
    name_unshifted,
    pad_output_name,
    read_explicit_pads,
)
from trt_facefusion.quantization.correction.grid import find_output_axis
from trt_facefusion.quantization.correction.weight_correction import Correction, Corrections
from trt_facefusion.quantization.folding import find_exponents, find_scale_ties
from trt_facefusion.quantization.folding.choose import choose_exponents
from trt_facefusion.quantization.precision import quantisable

MIGRATION = 0.8
"""Share of the imbalance that activations hand to the weights (SmoothQuant's alpha)."""

_WORTH_SHIFTING = 1.1
"""A shift that makes the steps less than this factor finer is not worth its operations."""


def find_equalisable(view: GraphView) -> dict[str, list[str]]:
    """Activations that could be equalised -> the weights of all convolutions that would quantise them.

    Only inputs of ungrouped convolutions: there, and there alone, input channel c of the weights meets channel c.
    """
    weights_of: dict[str, list[str]] = {}
    barred: set[str] = set()
    for node in view.model.graph.node:
        if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"} or not quantisable(view, node.name):
            continue
        tensor = node.input[0]
        if node.op_type == "Conv" and read_attribute(node, "group", 1) == 1 and len(view.shape(tensor) or ()) == 4:
            weights_of.setdefault(tensor, []).append(node.input[1])
        else:
            barred.add(tensor)
    return {tensor: weights for tensor, weights in weights_of.items() if tensor not in barred}


def find_channel_affines(
    view: GraphView,
    ranges: Mapping[str, ChannelRanges],
    *,
    shift: bool = True,
    peaks: Mapping[str, float] | None = None,
) -> dict[str, Affine]:
    """Scale and shift of every candidate that ``ranges`` has.

    The scale is ``s = a**alpha / w**(1 - alpha)``, rounded to powers of two of geometric mean one: a is half the width
    of a channel's range (its largest magnitude where nothing is shifted), w the largest weight over all convolutions
    that read the channel. Channels that have to be scaled alike so that their scale can be folded (`folding`) get what
    lies between. The shift is to the middle of the range. A tensor that gains little by it is not shifted.

    ``peaks`` are largest magnitudes of tensors, where they are known.
    """
    sizes = _measure_sizes(view, ranges)
    shifted = {name for name, size in sizes.items() if shift and size.gains and _can_shift_for_all(view, name)}
    log_factors = {name: size.find_log_factors(halved=name in shifted) for name, size in sizes.items()}
    highest = {name: float(size.peak.max()) for name, size in sizes.items()}
    exponents = choose_exponents(find_scale_ties(view), log_factors, {**highest, **(peaks or {})})
    affines = {}
    for name, size in sizes.items():
        middle = size.middle * np.exp2(-exponents[name].astype(np.float64)) if name in shifted else 0
        offsets = np.where(size.alive, middle, 0).astype(np.float16).astype(np.float32)
        affines[name] = Affine(exponents[name].astype(np.int8), offsets)
    return affines


def find_scaled_reads(view: GraphView, affines: Affines) -> dict[str, Affine]:
    """What other layers would read in INT8 of the channels that ``affines`` scale, if the scales are folded."""
    exponents = find_exponents(view, affines)
    read = dict.fromkeys(node.input[0] for node in view.float_nodes() if quantisable(view, node.name))
    return {
        name: Affine(exponents[name].astype(np.int8), np.zeros(len(exponents[name]), np.float32))
        for name in read
        if name in exponents and name not in affines
    }


def _can_shift_for_all(view: GraphView, tensor: str) -> bool:
    return all(can_shift(node) and not view.computes_bias(node) for node in view.consumers[tensor])


_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Sizes:
    """What a tensor's exponents are chosen by, [C] each: bounds of its channels, largest weight of all readers."""

    low: _Floats
    high: _Floats
    weight_peak: _Floats

    @property
    def peak(self) -> _Floats:
        return np.asarray(np.maximum(-self.low, self.high))

    @property
    def half(self) -> _Floats:
        return (self.high - self.low) / 2

    @property
    def middle(self) -> _Floats:
        return (self.high + self.low) / 2

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Channels that hold anything, and that anything reads."""
        return (self.peak > 0) & (self.weight_peak > 0)

    @property
    def gains(self) -> bool:
        """Whether a shift makes the steps finer."""
        return bool(np.log2(self.peak[self.alive] / self.half[self.alive]).mean() > np.log2(_WORTH_SHIFTING))

    def find_log_factors(self, *, halved: bool) -> _Floats:
        """log2 of what each channel is best divided by, with a mean of zero; NaN where it is not alive."""
        alive, size = self.alive, self.half if halved else self.peak
        log_factors = np.full(len(alive), np.nan)
        log_factors[alive] = MIGRATION * np.log2(size[alive]) - (1 - MIGRATION) * np.log2(self.weight_peak[alive])
        return np.asarray(log_factors - np.nanmean(log_factors), np.float64)


def _measure_sizes(view: GraphView, ranges: Mapping[str, ChannelRanges]) -> dict[str, _Sizes]:
    """The candidates of ``ranges`` but for those without a channel that is alive."""
    by_tensor = {}
    for tensor, weights in find_equalisable(view).items():
        if tensor not in ranges:
            continue
        low, high = (np.asarray(bound, np.float64) for bound in (ranges[tensor].low, ranges[tensor].high))
        by_weight = [np.abs(view.constant(name)).max(axis=(0, *range(2, view.constant(name).ndim))) for name in weights]
        sizes = _Sizes(low, high, np.maximum.reduce([np.asarray(values, np.float64) for values in by_weight]))
        if sizes.alive.any():
            by_tensor[tensor] = sizes
    return by_tensor


def make_scaled_tensors(affines: Affines) -> dict[str, tuple[ScaledTensor, ...]]:
    """The tensors behind scale and shift, and behind the scale alone, as the calibration pass is to count them."""
    scaled: dict[str, tuple[ScaledTensor, ...]] = {}
    for name, affine in affines.items():
        factors, nothing = np.float32(1) / affine.factors, np.zeros_like(affine.offsets)
        behind = ScaledTensor(name_equalised(name), factors, affine.offsets)
        unshifted = ScaledTensor(name_unshifted(name), factors, nothing)
        scaled[name] = (behind, unshifted) if affine.shifts else (behind,)
    return scaled


def equalise_model(
    view: GraphView, int8: Iterable[str], affines: Affines, corrections: Corrections | None = None
) -> onnx.ModelProto:
    """The FP32 model with scale and shift in front of the nodes ``int8``, and weights and biases that undo them.

    It is what a backend that quantises by itself is to start from. Without ``corrections`` it is the model of
    ``view`` in exact arithmetic; with them it has the rounded weights, whose largest are 127 steps, so that a
    backend that takes scales from the largest weight finds the same steps.
    """
    corrections = corrections or {}
    equalised = onnx.ModelProto()
    equalised.CopyFrom(view.model)
    del equalised.graph.node[:]
    int8_names, added = set(int8), set[str]()
    nodes: list[onnx.NodeProto] = []
    for source in view.model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        affine = affines.get(node.input[0]) if node.name in int8_names else None
        if affine is not None:
            pads = read_explicit_pads(node, affine)
            tensor = name_equalised(name_padded(node.input[0], pads))
            if tensor not in added:
                added.add(tensor)
                _insert_affine(equalised, nodes, node.input[0], affine, pads)
            if node.name not in corrections:
                _undo_affine(view, equalised, node, affine, added)
            elif affine.shifts:
                clear_pads(node)
            node.input[0] = tensor
        if node.name in int8_names and node.name in corrections:
            _apply_correction(equalised, node, corrections[node.name])
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in equalised.graph.initializer if tensor.name in read]
    del equalised.graph.initializer[:]
    equalised.graph.node.extend(nodes)
    equalised.graph.initializer.extend(constants)
    return onnx.shape_inference.infer_shapes(equalised)


def find_added_ranges(
    view: GraphView, int8: Iterable[str], affines: Affines, amax: Mapping[str, float]
) -> dict[str, float]:
    """Ranges of the tensors that `equalise_model` adds and the table ``amax`` does not name: padded and scaled ones."""
    ranges: dict[str, float] = {}
    for node in (view.nodes[name] for name in int8):
        tensor = node.input[0]
        if tensor not in affines:
            continue
        affine = affines[tensor]
        behind, padded = amax[name_equalised(tensor)], name_padded(tensor, read_explicit_pads(node, affine))
        ranges[name_equalised(padded)] = behind
        if padded != tensor:
            ranges[pad_output_name(padded)] = amax[tensor]
        if affine.shifts and affine.scales:
            ranges[name_scaled(padded)] = behind + float(np.abs(affine.offsets).max())
    return ranges


def _insert_affine(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensor: str, affine: Affine, pads: Pads
) -> None:
    affine_ops, constants, _ = make_affine_nodes(tensor, tensor, affine, pads, np.dtype(np.float32))
    nodes += affine_ops
    existing = {constant.name for constant in model.graph.initializer}
    model.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in constants.items() if name not in existing
    )


def _undo_affine(
    view: GraphView, model: onnx.ModelProto, node: onnx.NodeProto, affine: Affine, added: set[str]
) -> None:
    """Give a convolution the weights and the bias that undo scale and shift."""
    weight = view.constant(node.input[1])
    name = f"{node.input[1]}__times__{node.input[0]}"
    if name not in added:
        added.add(name)
        model.graph.initializer.append(numpy_helper.from_array(fold_weight(weight, affine), name))
    if affine.shifts:
        bias_name = view.bias(node)
        bias = None if bias_name is None else view.constant(bias_name)
        del node.input[2:]
        node.input.append(f"{node.name}__bias")
        model.graph.initializer.append(numpy_helper.from_array(fold_bias(weight, bias, affine), node.input[2]))
        clear_pads(node)
    node.input[1] = name


def _apply_correction(model: onnx.ModelProto, node: onnx.NodeProto, correction: Correction) -> None:
    """Give a node its corrected weights and bias."""
    weight, bias = f"{node.name}__weight", f"{node.name}__bias"
    other_axes = [axis for axis in range(correction.values.ndim) if axis != find_output_axis(node)]
    scale = np.expand_dims(correction.scale.astype(np.float32), other_axes)
    model.graph.initializer.append(numpy_helper.from_array(correction.values * scale, weight))
    model.graph.initializer.append(numpy_helper.from_array(correction.bias, bias))
    tensor = node.input[0]
    del node.input[:]
    node.input.extend([tensor, weight, bias])
