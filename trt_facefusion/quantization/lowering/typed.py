"""Plan + calibrated ranges -> one strongly typed ONNX: FP16 casts and explicit Q/DQ, as TensorRT wants them.

What is placed where, and why:

* A quantised node gets Q/DQ directly on its activation input (behind any Resize, Concat or Pad: TensorRT-RTX loses the
  INT8 kernel when such a node stands between DQ and the convolution) and a DQ on its INT8 weights, per output channel.
  Its output is not quantised: the next quantised node brings its own Q, and every float consumer sees the float tensor.
* Zero points are 0 and weights use -127..127, so that both signs are treated alike.
* A node's precision is its compute type. A tensor is stored in the type of the node that produced it, and one Cast per
  wanted type serves all consumers. Graph inputs and outputs keep the types that they have in the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import CalibrationCacheError, ModelError
from trt_facefusion.model.graph import GraphView, takes_half
from trt_facefusion.model.graph.sizes import ONLY_THE_SHAPE
from trt_facefusion.model.graph.view import FLOATS
from trt_facefusion.model.messages import declare_weights
from trt_facefusion.quantization.correction.channel_affine import (
    Affines,
    clear_pads,
    fold_bias,
    fold_weight,
    make_affine_nodes,
    name_equalised,
    name_padded,
    read_explicit_pads,
)
from trt_facefusion.quantization.correction.grid import compute_activation_scale, find_output_axis, quantise_weight
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.folding.unfold import copy_exponents
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Array, Precision

_WITH_DTYPE = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli", "EyeLike"})
"""Operators whose attribute ``dtype`` may say another type than that of their input."""


@dataclass
class Rewriter:
    """State of one lowering: the nodes of the result so far, and what type every tensor has.

    ``added_tensors`` are those that the source model does not have: casts and results of quantisers.
    """

    view: GraphView
    plan: Mapping[str, Precision]
    amax: Mapping[str, float]
    half: int = TensorProto.FLOAT16
    affines: Affines = field(default_factory=dict)
    corrections: Corrections = field(default_factory=dict)
    pairs: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    added_tensors: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Rewrite every node; the results are in ``nodes`` and ``constants``."""
        for name in self.view.input_names:
            self.types[name] = self.view.element_type(name)
        for node in self.view.model.graph.node:
            self._rewrite_node(node)

    def _rewrite_node(self, node: onnx.NodeProto) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        precision = self.plan.get(node.name)
        if precision is None:
            for index, name in enumerate(node.input):
                new.input[index] = self._restore_type(node, name)
            self.nodes.append(new)
            self.types.update({name: self.view.element_type(name) for name in node.output})
            return
        kind = TensorProto.FLOAT if precision is Precision.FP32 else self.half
        for index, name in enumerate(node.input):
            new.input[index] = self._convert_input(node, index, name, kind)
        while new.input and not new.input[-1]:
            del new.input[-1]  # optional inputs that are not given need no place at the end
        if precision is Precision.INT8:
            self._quantise(node, new, kind)
        self._convert_outputs(node, new, kind)

    def _restore_type(self, node: onnx.NodeProto, name: str) -> str:
        """An input of a node that the plan does not speak of, in the type that it had."""
        if name and node.op_type not in ONLY_THE_SHAPE and self.types.get(name) in FLOATS:
            return self._add_cast(name, self.view.element_type(name))
        self._keep_constant(name)
        return name

    def _convert_input(self, node: onnx.NodeProto, index: int, name: str, kind: int) -> str:
        if not name or not self.view.is_float(name):
            self._keep_constant(name)
            return name
        if kind == TensorProto.FLOAT16 and not takes_half(self.view, node, index):
            kind = TensorProto.FLOAT
        if self.view.is_constant(name):
            return self._convert_constant(name, kind)
        return self._add_cast(name, kind)

    def _convert_outputs(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        """Give the outputs their type; a graph output keeps its own through a Cast."""
        floats = [name for name in node.output if name and self.view.is_float(name)]
        if node.op_type == "Cast" and floats:
            for candidate in new.attribute:
                if candidate.name == "to":
                    candidate.i = kind
        elif floats and node.op_type in _WITH_DTYPE:
            self._set_dtype(new, kind)
        elif floats and not any(self.view.is_float(name) for name in node.input if name):
            kind = self.view.element_type(floats[0])  # made from integers, in the type that an attribute says
        casts = []
        for index, name in enumerate(node.output):
            if name not in floats:
                self.types[name] = self.view.element_type(name)
                continue
            self.types[name] = kind
            own = self.view.element_type(name)
            if name in self.view.output_names and kind != own:
                inner = f"{name}__fp16"
                new.output[index] = inner
                casts.append(helper.make_node("Cast", [inner], [name], name=f"{name}__cast", to=own))
                self.types[name] = own
        self.nodes += [new, *casts]

    def _set_dtype(self, new: onnx.NodeProto, kind: int) -> None:
        for candidate in new.attribute:
            if candidate.name == "dtype":
                candidate.i = kind

    def _keep_constant(self, name: str) -> None:
        if name and self.view.is_constant(name) and name not in self.constants:
            self._add_constant(name, self.view.constant(name))

    def _add_constant(self, name: str, values: Array) -> str:
        # Not ascontiguousarray: it makes a scalar [1], and Q/DQ with a scale [1] counts as per channel, which costs
        # TensorRT-RTX the INT8 kernel without a word.
        self.constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def _convert_constant(self, name: str, kind: int) -> str:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        typed = name if kind == self.view.element_type(name) else f"{name}__{dtype.name}"
        if typed not in self.constants:
            self._add_constant(typed, self.view.constant(name).astype(dtype))
        return typed

    def _add_cast(self, name: str, kind: int) -> str:
        if self.types[name] == kind:
            return name
        suffix = "fp16" if kind == TensorProto.FLOAT16 else "fp32"
        typed = f"{name}__as_{suffix}"
        if typed not in self.added_tensors:
            self.added_tensors.add(typed)
            self.nodes.append(helper.make_node("Cast", [name], [typed], name=f"{typed}__cast", to=kind))
        return typed

    def _quantise(self, node: onnx.NodeProto, new: onnx.NodeProto, kind: int) -> None:
        activation, weight = node.input[0], node.input[1]
        new.input[0] = self._quantise_activation(node, new.input[0], kind)
        new.input[1] = self._quantise_weight(node, kind)
        affine = self.affines.get(activation)
        if affine is not None and affine.shifts:
            clear_pads(new)  # the padding was done in front of the shift
        if node.name in self.corrections:
            self._set_bias(node, new, self.corrections[node.name].bias, kind)
        elif affine is not None and affine.shifts:
            bias_name = self.view.bias(node)
            bias = None if bias_name is None else self.view.constant(bias_name)
            self._set_bias(node, new, fold_bias(self.view.constant(weight).astype(np.float32), bias, affine), kind)

    def _set_bias(self, node: onnx.NodeProto, new: onnx.NodeProto, bias: NDArray[np.float32], kind: int) -> None:
        del new.input[2:]
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        new.input.append(self._add_constant(f"{node.name}__bias", bias.astype(dtype)))

    def _quantise_activation(self, node: onnx.NodeProto, source: str, kind: int) -> str:
        tensor = node.input[0]
        affine = self.affines.get(tensor)
        pads = () if affine is None else read_explicit_pads(node, affine)
        name = name_padded(tensor, pads)
        output = f"{name}__dq"
        if output in self.added_tensors:
            return output
        range_name = tensor if affine is None else name_equalised(tensor)
        amax = self.amax.get(range_name, math.nan)
        if not 0 <= amax < math.inf:
            raise CalibrationCacheError(
                f"the calibration has no range for the tensor {range_name!r}, which the plan quantises",
                "calibrate again (delete the cache file, or build with --recalibrate)",
            )
        self.added_tensors.add(output)
        if affine is not None:
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            nodes, constants, source = make_affine_nodes(tensor, source, affine, pads, dtype)
            self.nodes += nodes
            for constant, values in constants.items():
                self._add_constant(constant, values)
        scale = compute_activation_scale(amax, kind)
        scale_name = self._add_constant(f"{tensor}__scale", scale)
        zero = self._add_zero_point()
        self.nodes += [
            helper.make_node("QuantizeLinear", [source, scale_name, zero], [f"{name}__q"], name=f"{name}__quantize"),
            helper.make_node("DequantizeLinear", [f"{name}__q", scale_name, zero], [output], name=f"{output}__node"),
        ]
        return output

    def _quantise_weight(self, node: onnx.NodeProto, kind: int) -> str:
        activation, name = node.input[0], node.input[1]
        affine, correction, axis = self.affines.get(activation), self.corrections.get(node.name), find_output_axis(node)
        output = f"{name}__dq{axis}" + ("" if affine is None else f"__{activation}")
        output += "" if correction is None else f"__{node.name}"
        if output in self.added_tensors:
            return output
        self.added_tensors.add(output)
        if correction is not None:
            quantised = correction.values
            scale = correction.scale.astype(helper.tensor_dtype_to_np_dtype(kind))
        else:
            weight = self.view.constant(name).astype(np.float32)
            folded = weight if affine is None else fold_weight(weight, affine)
            quantised, scale = quantise_weight(folded, axis, kind, pairs=self.pairs)
        names = [self._add_constant(f"{output}__int8", quantised), self._add_constant(f"{output}__scale", scale)]
        zeros = self._add_constant(f"{output}__zero", np.zeros(len(scale), np.int8))
        self.nodes.append(
            helper.make_node("DequantizeLinear", [*names, zeros], [output], name=f"{output}__node", axis=axis)
        )
        return output

    def _add_zero_point(self) -> str:
        return self._add_constant("zero_point__int8", np.array(0, np.int8))


def lower(
    view: GraphView,
    plan: Plan,
    amax: Mapping[str, float],
    base: Precision = Precision.FP16,
    affines: Affines | None = None,
    corrections: Corrections | None = None,
    *,
    pairs: bool = False,
) -> onnx.ModelProto:
    """The typed ONNX of ``plan``; ``amax`` is the calibrated range of each tensor that an INT8 node reads.

    ``affines`` scales and shifts the channels of these tensors wherever an INT8 node reads them (see `channel_affine`);
    ``amax`` then holds the range behind that, under its `equalised_name`. ``corrections`` replace weights and biases of
    INT8 nodes (see `weight_correction`); they were made with the same ranges and ``affines``, and with ``pairs``: no
    products of two neighbouring weights saturate in 16 bits (see `grid.find_pair_peaks`).

    With ``base`` FP32 everything that the plan keeps in FP16 is computed in FP32: the same INT8 error, several times
    faster on a CPU, for comparing plans.

    Raises:
        CalibrationCacheError: a range is missing.
        ModelError: the result is not valid ONNX (a node that cannot be given the type the plan asks for).
    """
    if all(node.precision is Precision.FP32 for node in plan.nodes):
        return view.model
    half = TensorProto.FLOAT if base is Precision.FP32 else TensorProto.FLOAT16
    rewriter = Rewriter(
        view, {node.name: node.precision for node in plan.nodes}, amax, half, affines or {}, corrections or {}, pairs
    )
    return rewrite(rewriter)


def rewrite(rewriter: Rewriter, opset: int = 0) -> onnx.ModelProto:
    """The model that ``rewriter`` makes, in ``opset`` or a later one. Raises ModelError where it is not valid ONNX."""
    rewriter.run()
    source = rewriter.view.model
    inputs, outputs = list(source.graph.input), list(source.graph.output)
    read = {name for node in rewriter.nodes for name in node.input}  # not the floats that INT8 weights replace
    read.update(rewriter.view.output_names)
    nodes = [node for node in rewriter.nodes if node.op_type != "DequantizeLinear" or node.output[0] in read]
    read = {name for node in nodes for name in node.input}
    constants = [tensor for name, tensor in rewriter.constants.items() if name in read]
    graph = helper.make_graph(nodes, source.graph.name, inputs, outputs, constants)
    model = helper.make_model(
        graph, opset_imports=source.opset_import, ir_version=max(source.ir_version, 10 if opset else 9)
    )
    model.producer_name = "trt-facefusion"
    for entry in (entry for entry in model.opset_import if not entry.domain):
        entry.version = max(entry.version, opset)
    copy_exponents(source, model)
    try:
        onnx.checker.check_model(declare_weights(model), full_check=True)
    except Exception as error:
        raise ModelError(
            f"the plan cannot be lowered to typed ONNX: {str(error).strip().splitlines()[0]}",
            "give the node named there fp32 in the plan, and pass it with --plan",
        ) from error
    return model
