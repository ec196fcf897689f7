"""Channel equalisation: one INT8 scale per tensor, and yet no channel drowned by a larger one.

TensorRT runs a convolution in INT8 only if its activations share one scale, so channels of a small range get few of the
255 steps (a skip connection concatenated with a decoder branch is the worst case). Dividing each channel by a factor
before the quantiser, and multiplying the weights of that input channel with it, changes nothing in exact arithmetic and
evens the channels out. The division is one elementwise product, which engine makers fuse into the quantiser's kernel.

Source: G. Xiao et al., "SmoothQuant", ICML 2023 (the factor's formula); here the factors are powers of two, so that
neither FP16 nor the weights round differently for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_facefusion.graph import GraphView, attribute
from trt_facefusion.precision import quantisable

Exponents = Mapping[str, NDArray[np.int8]]
"""Tensor -> log2 of the factor of each of its channels [C]."""

SUFFIX = "__equalised"
MIGRATION = 0.8
"""Share of the imbalance that activations hand to the weights (SmoothQuant's alpha)."""

_LARGEST = 5


def equalised_name(tensor: str) -> str:
    """The name of a tensor behind its division: what the calibration table holds its range under."""
    return f"{tensor}{SUFFIX}"


def candidates(view: GraphView) -> dict[str, list[str]]:
    """Activations that could be equalised -> the weights of all convolutions that would quantise them.

    Only inputs of ungrouped convolutions: there, and there alone, input channel c of the weights meets channel c.
    """
    found: dict[str, list[str]] = {}
    barred: set[str] = set()
    for node in view.model.graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} or not quantisable(view, node.name):
            continue
        tensor = node.input[0]
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1 and len(view.shape(tensor) or ()) == 4:
            found.setdefault(tensor, []).append(node.input[1])
        else:
            barred.add(tensor)
    return {tensor: weights for tensor, weights in found.items() if tensor not in barred}


def exponents(view: GraphView, amax: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.int8]]:
    """log2 of each channel's factor ``s = a**alpha / w**(1 - alpha)``, rounded, scaled to a geometric mean of one.

    ``amax`` [C] is a channel's largest magnitude a; w is that of its weights over all convolutions that read it.
    """
    result = {}
    for tensor, weights in candidates(view).items():
        if tensor not in amax:
            continue
        peaks = [np.abs(view.constant(name)).max(axis=(0, *range(2, view.constant(name).ndim))) for name in weights]
        weight_peak = np.maximum.reduce([np.asarray(peak, np.float64) for peak in peaks])
        alive = (amax[tensor] > 0) & (weight_peak > 0)
        if not alive.any():
            continue
        log_factor = np.zeros(len(alive))
        log_factor[alive] = MIGRATION * np.log2(amax[tensor][alive]) - (1 - MIGRATION) * np.log2(weight_peak[alive])
        log_factor[alive] -= log_factor[alive].mean()
        result[tensor] = np.clip(np.rint(log_factor), -_LARGEST, _LARGEST).astype(np.int8)
    return result


def division(tensor: str, source: str, divisors: str) -> onnx.NodeProto:
    """The node that divides: ``divisors`` names a constant [1,C,1,1] of reciprocal factors."""
    return helper.make_node("Mul", [source, divisors], [equalised_name(tensor)], name=f"{tensor}__equalise")


def reciprocals(channel_exponents: NDArray[np.int8]) -> NDArray[np.float32]:
    """Reciprocal factors [1,C,1,1]."""
    return np.exp2(-channel_exponents.astype(np.float32)).reshape(1, -1, 1, 1)


def with_divisions(model: onnx.ModelProto, by_tensor: Exponents) -> onnx.ModelProto:
    """``model`` with the divided tensors computed beside the others, so that their ranges can be calibrated."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    produced = {value.name for value in model.graph.input}
    nodes = []
    for node in _after(model.graph.node, by_tensor, produced):
        if isinstance(node, str):
            constant = f"{node}__reciprocals"
            result.graph.initializer.append(numpy_helper.from_array(reciprocals(by_tensor[node]), constant))
            nodes.append(division(node, node, constant))
        else:
            nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def equalised(view: GraphView, int8: Iterable[str], by_tensor: Exponents) -> onnx.ModelProto:
    """The FP32 model with the division in front of the nodes ``int8``, and their weights multiplied.

    It computes exactly what the model of ``view`` does: what an engine maker that quantises by itself is to start from.
    """
    result = with_divisions(view.model, by_tensor)
    wanted, made = set(int8), set()
    for node in result.graph.node:
        if node.name not in wanted or node.input[0] not in by_tensor:
            continue
        tensor, weight = node.input[0], view.constant(node.input[1])
        name = f"{node.input[1]}__times__{tensor}"
        if name not in made:
            made.add(name)
            factors = reciprocals(by_tensor[tensor]).reshape(1, -1, *(1,) * (weight.ndim - 2))
            result.graph.initializer.append(numpy_helper.from_array((weight / factors).astype(weight.dtype), name))
        node.input[0], node.input[1] = equalised_name(tensor), name
    used = {name for node in result.graph.node for name in node.input}
    outputs = {value.name for value in result.graph.output}
    kept = [node for node in result.graph.node if outputs & set(node.output) or used & set(node.output)]
    read = {name for node in kept for name in node.input}
    constants = [tensor for tensor in result.graph.initializer if tensor.name in read]
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(kept)
    result.graph.initializer.extend(constants)
    return onnx.shape_inference.infer_shapes(result)


def _after(nodes: Iterable[onnx.NodeProto], wanted: Exponents, produced: set[str]) -> Iterable[onnx.NodeProto | str]:
    """The nodes in order, and after the one that makes a wanted tensor that tensor's name."""
    yield from (name for name in wanted if name in produced)
    for node in nodes:
        yield node
        yield from (name for name in node.output if name in wanted)
