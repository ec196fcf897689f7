"""Typed ONNX that ONNX Runtime turns into integer operators on a CPU.

ONNX Runtime fuses a convolution or linear layer into one integer operator only if everything around it is quantised:

* its activation as uint8 (the processors' dot products take one unsigned and one signed factor), with the zero point
  128: the grid is then the symmetric one that the ranges were calibrated for;
* its bias as INT32, by the product of both scales;
* a convolution's result, too: one that gives floats stays a float convolution, behind a DequantizeLinear that costs
  more than it saves. Where a Relu alone follows, the quantiser stands behind that and becomes part of the operator.

TensorRT keeps results in floats: storing them in uint8 is an error that it does not make. It stays small because every
channel has a scale and a zero point of its own. The operator knows but one of each, so the scales of its weights and
its bias bring all channels to one grid, and an elementwise product and sum take each back to its own range. Only what
an INT8 convolution reads as it is keeps one scale, that convolution's. Where 255 steps are too few, a second operator
gives the 255 above them.

Everything else is computed in FP32: most CPUs have no FP16 arithmetic, and ONNX Runtime would cast to and fro.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.channels import ChannelRanges
from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.channel_affine import Affines
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.lowering.typed import Rewriter, rewrite
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Array, Precision

ZERO_POINT = 128
_UINT8_MAX = 255
_NARROWEST = 2.0**-16
"""Of the widest channel's step, the smallest that another may have: its bias has to fit INT32."""
_TINY = float(np.finfo(np.float32).tiny)
_LARGEST_BIAS = 2**30
"""In steps of its scale; a larger one would leave no room for the sum in INT32."""


@dataclass(frozen=True)
class StorageGrid:
    """How a result is stored in uint8: as the sum of ``parts`` integers, ``result / steps + zeros``.

    ``steps`` and ``zeros`` are scalars, or [C] where channels have grids of their own.
    """

    steps: NDArray[np.float32]
    zeros: NDArray[np.int64]
    parts: int = 1

    @classmethod
    def of_tensor(cls, amax: float, *, positive: bool) -> StorageGrid:
        """One grid for the whole tensor: the symmetric one, or all of it for a Relu's positive half."""
        count, zero = (_UINT8_MAX, 0) if positive else (INT8_MAX, ZERO_POINT)
        return cls(np.array(max(amax / count, _TINY), np.float32), np.array(zero))

    @classmethod
    def of_channels(cls, ranges: ChannelRanges, parts: int = 1) -> StorageGrid:
        """A grid [C] for each channel, from the smallest to the largest value in it."""
        count = parts * _UINT8_MAX
        widths = ranges.high.astype(np.float64) - ranges.low
        steps = np.maximum(widths, max(widths.max() * _NARROWEST, _TINY * count)) / count
        zeros = np.clip(np.rint(-ranges.low / steps), 0, count)
        return cls(steps.astype(np.float32), zeros.astype(np.int64), parts)

    @property
    def by_channel(self) -> bool:
        """Whether channels have grids of their own."""
        return self.steps.ndim > 0

    @property
    def step(self) -> NDArray[np.float32]:
        """The one step [] that the operator stores with."""
        return np.array(self.steps.max(), np.float32)

    @property
    def zero(self) -> int:
        """The one zero point that the operator stores with; those of channels are part of its bias."""
        return 0 if self.by_channel else int(self.zeros)


@dataclass
class IntegerRewriter(Rewriter):
    """Lowers for ONNX Runtime's integer operators; ``stored`` are the results that are kept in uint8."""

    channels: Mapping[str, ChannelRanges] = field(default_factory=dict)
    nine_bit: Collection[str] = ()
    stored: set[str] = field(default_factory=set)

    def _quantise(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        super()._quantise(node, new, kind)
        if node.op_type == "MatMul":
            return
        grid = self._find_grid(self._find_only_relu(node) or node)
        if grid is not None and grid.by_channel:
            self._bring_to_one_grid(node, new, grid)
        if len(new.input) > 2 and new.input[2] in self.constants:
            new.input[2] = self._quantise_bias(node, new)

    def _bring_to_one_grid(self, node: onnx.NodeProto, new: onnx.NodeProto, grid: StorageGrid) -> None:
        """Have a convolution give ``(result / steps + zeros) * step``: what one quantiser then stores by channel."""
        factors = grid.step / grid.steps.astype(np.float64)
        scale = (self._scale_of(new.input[1]) * factors).astype(np.float32)
        new.input[1] = self._copy_weight(new.input[1], f"{new.input[1]}__of_{node.name}", scale)
        bias = numpy_helper.to_array(self.constants[new.input[2]]).astype(np.float64) if len(new.input) > 2 else 0.0
        zeros = grid.zeros * float(grid.step)
        self._set_bias(node, new, (bias * factors + zeros).astype(np.float32), TensorProto.FLOAT)

    def _copy_weight(self, dequantised: str, name: str, scale: Array) -> str:
        """Weights of their own for an operator, equal but for their scale.

        Not the same ones with another scale: ONNX Runtime makes uint8 of a weight where the processor asks for it, and
        can do that once only.
        """
        weight, _, zeros = self._find_producer(dequantised).input
        copies = {"int8": numpy_helper.to_array(self.constants[weight]), "scale": scale}
        copies["zero"] = numpy_helper.to_array(self.constants[zeros])
        names = [self._add_constant(f"{name}__{suffix}", values) for suffix, values in copies.items()]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [name], name=f"{name}__node", axis=0))
        return name

    def _quantise_bias(self, node: onnx.NodeProto, new: onnx.NodeProto) -> str:
        """The bias in INT32 where it fits, else as it is: the node then stays a float one."""
        scale = (self._scale_of(new.input[0]) * self._scale_of(new.input[1])).astype(np.float32)
        bias = numpy_helper.to_array(self.constants[new.input[2]])
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            steps = np.rint(bias.astype(np.float64) / scale)
        if bias.shape != scale.shape or not (np.abs(steps) < _LARGEST_BIAS).all():
            return str(new.input[2])
        output = f"{new.input[2]}_dq"
        if len(self.view.consumers[new.input[2]]) > 1:  # a bias that several layers share has a scale for each of them
            output = f"{output}__{node.name}"
        names = [
            self._add_constant(f"{output}__int32", steps.astype(np.int32)),
            self._add_constant(f"{output}__scale", scale),
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [output], name=f"{output}__node", axis=0))
        return output

    def _find_producer(self, dequantised: str) -> onnx.NodeProto:
        return next(node for node in reversed(self.nodes) if dequantised in node.output)

    def _scale_of(self, dequantised: str) -> Array:
        return numpy_helper.to_array(self.constants[self._find_producer(dequantised).input[1]]).astype(np.float64)

    def _convert_outputs(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        grid = self._find_grid(node)
        if grid is None:
            super()._convert_outputs(node, new, kind)
            return
        output = node.output[0]
        if grid.by_channel:
            self._restore_channels(output, self._store_in_parts(node, new, grid), grid)
        else:
            self._add_quantiser(new, grid, output)
        self.types[output] = kind
        self.stored.add(output)

    def _store_in_parts(self, node: onnx.NodeProto, new: onnx.NodeProto, grid: StorageGrid) -> str:
        """Have one operator store the lowest 255 steps, the next one those above; gives the sum's name."""
        output = node.output[0]
        names = [f"{output}__part{index}" for index in range(grid.parts)]
        self._add_quantiser(new, grid, names[0])
        for index, name in enumerate(names[1:], 1):
            part = onnx.NodeProto()
            part.CopyFrom(new)
            part.name = f"{node.name}__part{index}"
            bias = numpy_helper.to_array(self.constants[f"{node.name}__bias"])
            below = index * _UINT8_MAX * float(grid.step)
            self._set_bias(part, part, (bias - below).astype(np.float32), TensorProto.FLOAT)
            part.input[2] = self._quantise_bias(part, part)
            scale = self._scale_of(new.input[1]).astype(np.float32)
            part.input[1] = self._copy_weight(new.input[1], f"{new.input[1]}__of_{part.name}", scale)
            self._add_quantiser(part, grid, name)
        if len(names) == 1:
            return names[0]
        self.nodes.append(helper.make_node("Sum", names, [f"{output}__sum"], name=f"{output}__add_up"))
        return f"{output}__sum"

    def _restore_channels(self, output: str, source: str, grid: StorageGrid) -> None:
        """Undo ``_bring_to_one_grid``. Not by scales in a DequantizeLinear: ONNX Runtime may fuse that with what reads
        it into an operator that knows one scale only, and then refuses it."""
        steps = grid.steps.astype(np.float64).reshape(1, -1, 1, 1)
        zeros = grid.zeros.reshape(steps.shape) * steps
        scaled = f"{output}__scaled" if grid.zeros.any() else output
        factors = self._add_constant(f"{output}__factors", (steps / grid.step).astype(np.float32))
        self.nodes.append(helper.make_node("Mul", [source, factors], [scaled], name=f"{output}__scale"))
        if scaled != output:
            offsets = self._add_constant(f"{output}__zeros", zeros.astype(np.float32))
            self.nodes.append(helper.make_node("Sub", [scaled, offsets], [output], name=f"{output}__shift"))

    def _add_quantiser(self, new: onnx.NodeProto, grid: StorageGrid, output: str) -> None:
        """Add ``new``, the quantiser of what it gives, and the DequantizeLinear that gives ``output``."""
        new.output[0], integers = f"{output}__exact", f"{output}__stored"
        scale_and_zero = [self._add_constant(f"{integers}__scale", grid.step), self._add_zero_point(grid.zero)]
        self.nodes += [
            new,
            helper.make_node(
                "QuantizeLinear", [new.output[0], *scale_and_zero], [integers], name=f"{integers}__quantize"
            ),
            helper.make_node("DequantizeLinear", [integers, *scale_and_zero], [output], name=f"{integers}__dequantize"),
        ]

    def _find_grid(self, node: onnx.NodeProto) -> StorageGrid | None:
        """How the result of ``node`` is stored; None for what stays float, as does all whose range is unknown."""
        if node.op_type == "Relu":
            producer = self.view.producer.get(node.input[0])
            if (
                producer is None
                or self._find_only_relu(producer) is not node
                or not self._is_int8_convolution(producer)
            ):
                return None
        elif not self._is_int8_convolution(node) or self._find_only_relu(node) is not None:
            return None
        output = node.output[0]
        if output in self.channels and not self._read_as_it_is(output):
            parts = 2 if output in self.nine_bit and node.op_type == "Conv" else 1
            return StorageGrid.of_channels(self.channels[output], parts)
        amax = self.amax.get(output, math.nan)
        return StorageGrid.of_tensor(amax, positive=node.op_type == "Relu") if 0 <= amax < math.inf else None

    def by_channel(self, node: onnx.NodeProto) -> bool:
        """Whether the result of ``node`` is stored on a grid for each channel."""
        grid = self._find_grid(node)
        return grid is not None and grid.by_channel

    def _is_int8_convolution(self, node: onnx.NodeProto) -> bool:
        int8 = node.op_type == "Conv" and self.plan.get(node.name) is Precision.INT8
        return int8 and not self.view.computes_bias(node)

    def _find_only_relu(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The Relu, its own range known, that alone reads the result of ``node``; None where there is no such."""
        readers = self.view.consumers[node.output[0]]
        if node.output[0] in self.view.output_names or [reader.op_type for reader in readers] != ["Relu"]:
            return None
        return readers[0] if 0 <= self.amax.get(readers[0].output[0], math.nan) < math.inf else None

    def _read_as_it_is(self, tensor: str) -> bool:
        """Whether an INT8 node takes the integers of ``tensor`` without scaling its channels first."""
        readers = self.view.consumers[tensor]
        return tensor not in self.affines and any(
            reader.input[0] == tensor and self.plan.get(reader.name) is Precision.INT8 for reader in readers
        )

    def _quantise_activation(self, node: onnx.NodeProto, source: str, kind: int) -> str:
        tensor = node.input[0]
        if tensor in self.stored and tensor not in self.affines:
            return tensor
        return super()._quantise_activation(node, source, kind)

    def _add_zero_point(self, zero_point: int = ZERO_POINT) -> str:
        return self._add_constant(f"zero_point__uint8_{zero_point}", np.array(zero_point, np.uint8))


def find_storable_results(view: GraphView) -> list[str]:
    """The results [N,C,H,W] of convolutions, and of a Relu behind: those that `lower_to_integers` may store."""
    names = []
    for node in view.float_nodes():
        if node.op_type == "Conv" and len(view.shape(node.output[0]) or ()) == 4:
            readers = view.consumers[node.output[0]]
            names += [node.output[0], *(reader.output[0] for reader in readers if reader.op_type == "Relu")]
    return names


def find_nine_bit_candidates(
    view: GraphView, plan: Plan, amax: Mapping[str, float], affines: Affines, channels: Mapping[str, ChannelRanges]
) -> list[str]:
    """The results, in graph order, that `lower_to_integers` stores by channel and could store in 9 bits."""
    precisions = {node.name: node.precision for node in plan.nodes}
    rewriter = IntegerRewriter(view, precisions, amax, TensorProto.FLOAT, affines, channels=channels)
    return [node.output[0] for node in view.float_nodes() if node.op_type == "Conv" and rewriter.by_channel(node)]


def lower_to_integers(
    view: GraphView,
    plan: Plan,
    amax: Mapping[str, float],
    affines: Affines | None = None,
    corrections: Corrections | None = None,
    channels: Mapping[str, ChannelRanges] | None = None,
    nine_bit: Collection[str] = (),
) -> onnx.ModelProto:
    """The typed ONNX of ``plan`` for ONNX Runtime on a CPU; the other arguments and the errors are those of `lower`.

    What the plan keeps in FP16 is computed in FP32. ``channels`` are the ranges [C] of `find_storable_results`; without
    them a result is stored by its range in ``amax``. Where that is missing, too, the convolution keeps its quantised
    factors and computes in float. Convolutions' results in ``nine_bit`` are kept in 9 bits, by a second operator each.
    """
    rewriter = IntegerRewriter(
        view,
        {node.name: node.precision for node in plan.nodes},
        amax,
        TensorProto.FLOAT,
        affines or {},
        corrections or {},
        channels=channels or {},
        nine_bit=nine_bit,
    )
    return rewrite(rewriter)
