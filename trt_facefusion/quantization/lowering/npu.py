"""Plan + ranges -> an ONNX for a neural processor that works on integers: every tensor between operators is quantised.

What is placed where, and why:

* Each float tensor is stored on one grid, by a Q/DQ behind what makes it; graph inputs have theirs in front of what
  reads them. The compiler takes DQ - operator - Q as one integer operator. 16 bits (uint16) are the rule. Nodes that
  are ``narrow`` read and write 8 bits (uint8); where widths meet, a Q/DQ of its own converts.
* Weights of INT8 nodes have 8 bits, a scale for each output channel; biases have 32, on the grid of the products.
* What only moves values keeps the grid of what it moves. Sigmoid and Tanh have the grids that onnxruntime's own
  quantiser gives them for this processor (`quantization/execution_providers/qnn/quant_config.py`).
* Nodes that the plan keeps in FP16, and that have weights, are islands: they compute in FP16 between casts. All others
  that are not INT8 (additions, norms, rectifiers) are stored in 16 bits like what is around them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.lowering.typed import Rewriter, rewrite
from trt_facefusion.quantization.precision import Plan, PlannedNode
from trt_facefusion.types import Array, Precision

WIDE, NARROW = 16, 8
OPSET = 21
"""The first in which QuantizeLinear knows 16 bits."""

Bounds = Mapping[str, tuple[float, float]]
"""Tensor -> the smallest and the largest value that its grid holds; zero lies between them."""

_MOVES = frozenset(
    {
        "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Gather", "MaxPool", "Expand",
        "DepthToSpace", "SpaceToDepth", "Tile", "Split",
    }
)  # fmt: skip
_FIXED = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
_UNSIGNED = {NARROW: np.uint8, WIDE: np.uint16}
_LARGEST_BIAS = 2**31 - 1
_SMALLEST_STEP = 2.0**-100
_PARAMETERS = frozenset({"Resize", "Clip", "Pad"})
"""Operators whose further inputs are no tensors to compute with."""
_NORMS = frozenset({"InstanceNormalization", "LayerNormalization", "GroupNormalization"})


@dataclass(frozen=True)
class TensorGrid:
    """Scale and zero point of an unsigned grid of ``bits``."""

    scale: NDArray[np.float32]
    zero: Array

    @classmethod
    def between(cls, low: float, high: float, bits: int) -> TensorGrid:
        """The grid of ``bits`` from ``low`` <= 0 to ``high`` >= 0; zero is one of its points."""
        levels = (1 << bits) - 1
        scale = np.float32(max((high - low) / levels, _SMALLEST_STEP))
        zero = np.clip(np.rint(-low / float(scale)), 0, levels)
        return cls(np.array(scale, np.float32), np.array(zero, _UNSIGNED[bits]))

    @classmethod
    def of_unit(cls, operator: str, bits: int) -> TensorGrid:
        """The grid of a Sigmoid or Tanh: steps of 2**-bits from 0, or of 2**(1-bits) about the middle."""
        signed = operator == "Tanh"
        scale, zero = 2.0 ** (signed - bits), (1 << (bits - 1)) if signed else 0
        return cls(np.array(scale, np.float32), np.array(zero, _UNSIGNED[bits]))

    def quantise(self, values: Array) -> Array:
        """``values`` in steps."""
        limits = np.iinfo(self.zero.dtype)
        steps = np.rint(values.astype(np.float64) / float(self.scale)) + int(self.zero)
        return np.asarray(np.clip(steps, limits.min, limits.max), self.zero.dtype)


@dataclass
class NpuRewriter(Rewriter):
    """Lowers for integers everywhere; ``plan`` holds INT8, FP16 for islands, and FP32 for what is stored in integers.

    ``bounds`` are those of every tensor that is stored, for grids of either width; ``narrow`` the nodes that read and
    write 8 bits.
    """

    bounds: Mapping[int, Bounds] = field(default_factory=dict)
    narrow: Collection[str] = ()
    widths: dict[str, int] = field(default_factory=dict)
    """The width that each stored tensor has where it is made; 0 for the result of an island."""
    sources: dict[str, str] = field(default_factory=dict)
    """Whose bounds a tensor has: itself, or what it was moved from."""
    units: dict[str, str] = field(default_factory=dict)
    """Tensors with the grid of an operator -> that operator."""

    def run(self) -> None:
        """Rewrite every node; the results are in ``nodes`` and ``constants``."""
        self.widths.update(dict.fromkeys(filter(self.view.is_float, self.view.input_names), 0))
        super().run()

    def _rewrite_node(self, node: onnx.NodeProto) -> None:
        if self.plan.get(node.name) is not Precision.INT8:
            super()._rewrite_node(node)
            return
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[0] = self._convert_input(node, 0, node.input[0], TensorProto.FLOAT)
        self._quantise(node, new, TensorProto.FLOAT)
        self._convert_outputs(node, new, TensorProto.FLOAT)

    def _is_island(self, node: onnx.NodeProto) -> bool:
        return self.plan.get(node.name) is Precision.FP16

    def _find_width(self, node: onnx.NodeProto) -> int:
        return NARROW if node.name in self.narrow else WIDE

    def _convert_input(self, node: onnx.NodeProto, index: int, name: str, kind: int) -> str:
        if self._is_island(node) or not name or not self.view.is_float(name):
            return super()._convert_input(node, index, name, kind)
        if self.view.is_constant(name):
            if index > 0 and node.op_type in _PARAMETERS:
                return super()._convert_input(node, index, name, kind)
            return self._store_constant(node, index, name)
        return self._read_stored(name, self._find_width(node))

    def _read_stored(self, name: str, width: int) -> str:
        """The float values of ``name`` as they come from a grid of ``width`` bits."""
        if self.widths.get(name, 0) == width:
            return name
        output = f"{name}__{width}_bits"
        if output not in self.added_tensors:
            self.added_tensors.add(output)
            self._add_pair(self._add_cast(name, TensorProto.FLOAT), output, self._make_grid(name, width))
        return output

    def _add_pair(self, source: str, output: str, grid: TensorGrid) -> None:
        """A quantiser of ``source``, and the dequantiser that gives ``output``."""
        scale = self._add_constant(f"{output}__scale", grid.scale)
        zero = self._add_constant(f"{output}__zero", grid.zero)
        integers = f"{output}__stored"
        self.nodes += [
            helper.make_node("QuantizeLinear", [source, scale, zero], [integers], name=f"{output}__quantize"),
            helper.make_node("DequantizeLinear", [integers, scale, zero], [output], name=f"{output}__dequantize"),
        ]

    def _make_grid(self, tensor: str, width: int) -> TensorGrid:
        source = self.sources.get(tensor, tensor)
        if source in self.units:
            return TensorGrid.of_unit(self.units[source], width)
        low, high = self.bounds[width].get(source, (math.nan, math.nan))
        if not (-math.inf < low <= 0 <= high < math.inf):
            raise CalibrationCacheError(
                f"the calibration has no range for the tensor {source!r}, which the processor stores in integers",
                "calibrate again (delete the cache file, or build with --recalibrate)",
            )
        return TensorGrid.between(low, high, width)

    def _store_constant(self, node: onnx.NodeProto, index: int, name: str) -> str:
        """A constant on a grid of its own. Of a norm the offset is on that of its products, as a bias is."""
        values = self.view.constant(name).astype(np.float32)
        norm = node.op_type in _NORMS
        if norm and index == 2:
            return self._store_bias(node, values, f"{node.name}__offset", [node.input[0], node.input[1]])
        width = NARROW if norm else self._find_width(node)
        output = f"{name}__{width}_bits"
        if output not in self.added_tensors:
            self.added_tensors.add(output)
            low, high = min(float(values.min(initial=0)), 0.0), max(float(values.max(initial=0)), 0.0)
            self._add_stored_constant(output, values, TensorGrid.between(low, high, width))
        return output

    def _add_stored_constant(self, output: str, values: Array, grid: TensorGrid) -> None:
        names = [
            self._add_constant(f"{output}__integers", grid.quantise(values)),
            self._add_constant(f"{output}__scale", grid.scale),
            self._add_constant(f"{output}__zero", grid.zero),
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [output], name=f"{output}__dequantize"))

    def _quantise(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        new.input[1] = self._quantise_weight(node, kind)
        bias_name, correction = self.view.bias(node), self.corrections.get(node.name)
        if bias_name is None and correction is None:
            return
        if self.view.computes_bias(node):
            new.input[2] = self._read_stored(bias_name or "", self._find_width(node))
            return
        bias = self.view.constant(bias_name) if correction is None and bias_name else correction.bias  # type: ignore[union-attr]
        del new.input[2:]
        new.input.append(self._store_bias(node, bias.astype(np.float32), f"{node.name}__bias", list(new.input)))

    def _store_bias(self, node: onnx.NodeProto, bias: Array, output: str, factors: list[str]) -> str:
        """A bias in INT32, in steps of the products of both ``factors``, as the processor adds it."""
        scale = self._read_scale(node, factors[0]) * self._read_scale(node, factors[1])
        scale = np.maximum(scale, np.abs(bias).max(initial=0) / _LARGEST_BIAS)
        steps = np.clip(np.rint(bias.astype(np.float64).ravel() / scale), -_LARGEST_BIAS, _LARGEST_BIAS)
        per_channel = scale.ndim > 0 and scale.size == bias.size
        names = [
            self._add_constant(f"{output}__int32", steps.astype(np.int32)),
            self._add_constant(f"{output}__scale", scale.astype(np.float32)),
        ]
        dequantise = helper.make_node("DequantizeLinear", names, [output], name=f"{output}__dequantize")
        if per_channel:
            dequantise.attribute.append(helper.make_attribute("axis", 0))
        self.nodes.append(dequantise)
        return output

    def _read_scale(self, node: onnx.NodeProto, tensor: str) -> NDArray[np.float64]:
        """The scale of what ``node`` reads as ``tensor``."""
        candidates = (tensor, f"{tensor}__{self._find_width(node)}_bits", f"{tensor}__{NARROW}_bits")
        producer = next(
            n for n in reversed(self.nodes) if n.op_type == "DequantizeLinear" and n.output[0] in candidates
        )
        return numpy_helper.to_array(self.constants[producer.input[1]]).astype(np.float64)

    def _convert_outputs(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        if self._is_island(node):
            super()._convert_outputs(node, new, kind)
            self.widths.update(dict.fromkeys(node.output, 0))
            return
        width, pairs = self._find_width(node), []
        for index, name in enumerate(node.output):
            self.types[name] = self.view.element_type(name)
            if not name or not self.view.is_float(name):
                continue
            self.types[name], self.widths[name] = TensorProto.FLOAT, width
            self._choose_source(node, name)
            new.output[index] = f"{name}__exact"
            pairs.append(name)
        self.nodes.append(new)
        for name in pairs:
            self._add_pair(f"{name}__exact", name, self._make_grid(name, width))

    def _choose_source(self, node: onnx.NodeProto, output: str) -> None:
        if node.op_type in _FIXED:
            self.units[output] = node.op_type
        elif node.op_type in _MOVES and not self.view.is_constant(node.input[0]):
            moved = node.input[0]
            self.sources[output] = self.sources.get(moved, moved)


def _choose_storage(view: GraphView, node: PlannedNode) -> Precision:
    """The precision that `NpuRewriter` reads: FP16 for islands, FP32 for what is stored in integers without weights."""
    if node.precision is Precision.FP16:
        return Precision.FP16 if view.weight(view.nodes[node.name]) else Precision.FP32
    return node.precision


def list_stored_tensors(view: GraphView) -> list[str]:
    """The float tensors of ``view`` whose bounds `lower_for_npu` needs at most, in graph order."""
    names = [name for name in view.input_names if view.is_float(name)]
    return names + [name for node in view.float_nodes() for name in node.output if name and view.is_float(name)]


def lower_for_npu(
    view: GraphView,
    plan: Plan,
    bounds: Mapping[int, Bounds],
    narrow: Collection[str] = (),
    corrections: Corrections | None = None,
) -> onnx.ModelProto:
    """The ONNX of ``plan`` for a processor that stores everything in integers.

    Args:
        view: the prepared graph, perhaps with scales of channels in its constants.
        plan: INT8 nodes have 8-bit weights; FP16 nodes with weights are islands; all others are stored in 16 bits.
        bounds: what grids of 16 bits (`WIDE`), and of 8 (`NARROW`), hold of every tensor of `list_stored_tensors`.
        narrow: nodes that read and write 8 bits in place of 16.
        corrections: weights and biases of INT8 nodes (see `weight_correction`).

    Raises:
        CalibrationCacheError: bounds are missing.
        ModelError: the result is not valid ONNX.
    """
    rewriter = NpuRewriter(
        view,
        {node.name: _choose_storage(view, node) for node in plan.nodes},
        {},
        TensorProto.FLOAT16,
        corrections=corrections or {},
        bounds=bounds,
        narrow=narrow,
    )
    return rewrite(rewriter, OPSET)
