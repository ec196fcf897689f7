"""Typed ONNX that ONNX Runtime turns into integer operators on a CPU.

ONNX Runtime fuses a convolution or linear layer into one integer operator only if everything around it is quantised:

* its activation as uint8 (the processors' dot products take one unsigned and one signed factor), with the zero point
  128: the grid is then the symmetric one that the ranges were calibrated for;
* its bias as INT32, by the product of both scales;
* a convolution's result, too: one that gives floats stays a float convolution, behind a DequantizeLinear that costs
  more than it saves. Where a Relu alone follows, the quantiser stands behind that and becomes part of the operator; the
  zero point 0 then leaves all 255 steps to the positive half.

Everything else is computed in FP32: most CPUs have no FP16 arithmetic, and ONNX Runtime would cast to and fro.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.graph import GraphView
from trt_facefusion.lowering.affine import Affines
from trt_facefusion.lowering.corrections import Corrections
from trt_facefusion.lowering.grid import INT8_MAX, storable_scale
from trt_facefusion.lowering.typed import Rewriter, rewritten
from trt_facefusion.precision import Plan
from trt_facefusion.types import Array, Precision

ZERO_POINT = 128
_UINT8_MAX = 255
_LARGEST_BIAS = 2**30
"""In steps of its scale; a larger one would leave no room for the sum in INT32."""


@dataclass
class IntegerRewriter(Rewriter):
    """Lowers for ONNX Runtime's integer operators; ``stored`` are the results that are kept in uint8."""

    stored: set[str] = field(default_factory=set)

    def _quantise(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        super()._quantise(node, new, kind)
        if node.op_type != "MatMul" and len(new.input) > 2 and new.input[2] in self.constants:
            new.input[2] = self._quantised_bias(node, new)

    def _quantised_bias(self, node: onnx.NodeProto, new: onnx.NodeProto) -> str:
        """The bias in INT32 where it fits, else as it is: the node then stays a float one."""
        scale = (self._scale_of(new.input[0]) * self._scale_of(new.input[1])).astype(np.float32)
        bias = numpy_helper.to_array(self.constants[new.input[2]])
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            steps = np.rint(bias.astype(np.float64) / scale)
        if bias.shape != scale.shape or not (np.abs(steps) < _LARGEST_BIAS).all():
            return str(new.input[2])
        output = f"{node.name}__bias_dq"
        names = [
            self._add_constant(f"{output}__int32", steps.astype(np.int32)),
            self._add_constant(f"{output}__scale", scale),
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [output], name=f"{output}__node", axis=0))
        return output

    def _scale_of(self, dequantised: str) -> Array:
        maker = next(made for made in reversed(self.nodes) if dequantised in made.output)
        return numpy_helper.to_array(self.constants[maker.input[1]]).astype(np.float64)

    def _outputs(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        if not self._stores(node):
            super()._outputs(node, new, kind)
            return
        result = node.output[0]
        steps, zero = (_UINT8_MAX, 0) if node.op_type == "Relu" else (INT8_MAX, ZERO_POINT)
        names = [
            self._add_constant(f"{result}__stored_scale", storable_scale(np.float32(self.amax[result] / steps), kind)),
            self._zero_point(zero),
        ]
        new.output[0], integers = f"{result}__exact", f"{result}__stored"
        self.nodes += [
            new,
            helper.make_node("QuantizeLinear", [new.output[0], *names], [integers], name=f"{integers}__quantize"),
            helper.make_node("DequantizeLinear", [integers, *names], [result], name=f"{integers}__dequantize"),
        ]
        self.types[result] = kind
        self.stored.add(result)

    def _stores(self, node: onnx.NodeProto) -> bool:
        """Whether the result of ``node`` is to be quantised: where its range is known."""
        if not node.output or not 0 <= self.amax.get(node.output[0], math.nan) < math.inf:
            return False
        if node.op_type == "Relu":
            maker = self.view.producer.get(node.input[0])
            return maker is not None and self._is_int8_convolution(maker) and self._only_relu_reads(maker)
        return self._is_int8_convolution(node) and not self._only_relu_reads(node)

    def _is_int8_convolution(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Conv" and self.plan.get(node.name) is Precision.INT8

    def _only_relu_reads(self, node: onnx.NodeProto) -> bool:
        """Whether a Relu, whose own range is known, is all that reads the result of ``node``."""
        readers = self.view.consumers[node.output[0]]
        if node.output[0] in self.view.output_names or [reader.op_type for reader in readers] != ["Relu"]:
            return False
        return 0 <= self.amax.get(readers[0].output[0], math.nan) < math.inf

    def _quantised_activation(self, node: onnx.NodeProto, source: str, kind: int) -> str:
        tensor = node.input[0]
        if tensor in self.stored and tensor not in self.affines:
            return tensor
        return super()._quantised_activation(node, source, kind)

    def _zero_point(self, value: int = ZERO_POINT) -> str:
        return self._add_constant(f"zero_point__uint8_{value}", np.array(value, np.uint8))


def lower_to_integers(
    view: GraphView,
    plan: Plan,
    amax: Mapping[str, float],
    affines: Affines | None = None,
    corrections: Corrections | None = None,
) -> onnx.ModelProto:
    """The typed ONNX of ``plan`` for ONNX Runtime on a CPU; arguments and errors are those of `lower`.

    What the plan keeps in FP16 is computed in FP32. A convolution whose result has no range in ``amax`` keeps its
    quantised factors and computes in float.
    """
    precisions = {node.name: node.precision for node in plan.nodes}
    return rewritten(IntegerRewriter(view, precisions, amax, TensorProto.FLOAT, affines or {}, corrections or {}))
