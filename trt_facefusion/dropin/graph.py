"""A typed graph -> the file that other tools open in the place of the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.dropin.border import Border
from trt_facefusion.errors import BadInputError
from trt_facefusion.types import TensorSpec

NEWEST_OPSET = 21
"""What onnxruntime takes from 1.18 on; the tools pin later versions."""
_IR_OF_OPSET = {19: 9, 20: 9, 21: 10}
RUNTIME_OF_OPSET = {19: "1.15", 20: "1.17", 21: "1.18"}
"""The first onnxruntime that takes an opset (its table of versions)."""


def find_opset(model: onnx.ModelProto) -> int:
    """The opset of ONNX's own operators."""
    return max(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})


def make_dropin(
    typed: onnx.ModelProto,
    border: Border,
    matrix: tuple[str, NDArray[np.float32]] | None,
    facts: Mapping[str, str],
) -> onnx.ModelProto:
    """``typed`` with the inputs and outputs of ``border``, and ``matrix`` (name, [D,D]) last among its initializers.

    ``typed`` is changed and given back. ``facts`` become properties of the file.

    Raises:
        BadInputError: the graph needs a newer onnxruntime than the tools have.
    """
    opset = find_opset(typed)
    if opset > NEWEST_OPSET:
        raise BadInputError(
            f"the graph is of opset {opset}, and the tools' onnxruntime takes {NEWEST_OPSET} at most",
            f"export the original with opset {NEWEST_OPSET} or older, and build the engine again",
        )
    graph = typed.graph
    _set_inputs(graph, border.inputs)
    _set_outputs(graph, border.outputs)
    del graph.value_info[:]  # an open batch axis stands in it
    if matrix is not None:
        _append_matrix(graph, *matrix)
    typed.ir_version = _IR_OF_OPSET.get(opset, 9)
    helper.set_model_props(typed, {**{p.key: p.value for p in typed.metadata_props}, **facts})
    onnx.checker.check_model(typed)
    return typed


def _append_matrix(graph: onnx.GraphProto, name: str, matrix: NDArray[np.float32]) -> None:
    """Put the matrix behind all other initializers: no node reads it, and tools take the last one."""
    for index in reversed([i for i, tensor in enumerate(graph.initializer) if tensor.name == name]):
        del graph.initializer[index]
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix, np.float32), name))


def _set_inputs(graph: onnx.GraphProto, specs: Sequence[TensorSpec]) -> None:
    """Give ``graph`` the inputs ``specs``, through casts where their types are others."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for spec in specs:
        if _find_kind(spec) != kinds.get(spec.name, _find_kind(spec)):
            inside = f"{spec.name}__typed"
            for node in graph.node:
                for index, name in enumerate(node.input):
                    if name == spec.name:
                        node.input[index] = inside
            cast = helper.make_node("Cast", [spec.name], [inside], name=f"{inside}/cast", to=kinds[spec.name])
            graph.node.insert(0, cast)
    del graph.input[:]
    graph.input.extend(_make_info(spec) for spec in specs)


def _set_outputs(graph: onnx.GraphProto, specs: Sequence[TensorSpec]) -> None:
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    for spec in specs:
        if _find_kind(spec) != kinds[spec.name]:
            inside = f"{spec.name}__typed"
            for node in graph.node:
                for names in (node.input, node.output):
                    for index, name in enumerate(names):
                        if name == spec.name:
                            names[index] = inside
            cast = helper.make_node("Cast", [inside], [spec.name], name=f"{inside}/cast", to=_find_kind(spec))
            graph.node.append(cast)
    del graph.output[:]
    graph.output.extend(_make_info(spec) for spec in specs)


def _find_kind(spec: TensorSpec) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)))


def _make_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _find_kind(spec), list(spec.shape))


def is_made_for_cpu(model: onnx.ModelProto) -> bool:
    """Whether activations are quantised to uint8, as the CPU provider wants them; TensorRT takes int8 only."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    quantisers = (node for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2)
    return any(kinds.get(node.input[2]) == TensorProto.UINT8 for node in quantisers)


def has_quantisers(model: onnx.ModelProto) -> bool:
    """Whether activations are quantised by operators of their own (Q/DQ)."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Whether something in the graph is FP16."""
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    return TensorProto.FLOAT16 in kinds or TensorProto.FLOAT16 in casts
