"""Bring a checked model into the one form the other rooms work on.

After `prepare`: opset 20 or later, batch axis named `batch` (where it is dynamic), all other sizes fixed, constants
folded into initializers, every node named uniquely, shapes and types of all tensors known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import inliner, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from trt_facefusion.errors import ModelError
from trt_facefusion.graph.group_norm import expand_group_norms
from trt_facefusion.graph.modulated import rewrite_modulated
from trt_facefusion.graph.subpixel import rewrite_transposed
from trt_facefusion.types import Array, TensorSpec

OPSET = 20
"""The oldest opset we lower to: FP16 scales of Q/DQ need 19, GELU 20."""

BATCH_AXIS = "batch"
_FOLD_LIMIT_BYTES = 64 << 20
_CONTROL_FLOW = {"If", "Loop", "Scan"}
_NOT_FOLDABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", *_CONTROL_FLOW}
_OLDEST_IR = 8
"""Before 4, initializers had to be listed as inputs, too; opset 20 itself came with 9."""


@dataclass(frozen=True)
class PreparedModel:
    """A prepared model and what it takes and gives. Axis 0 of ``inputs`` is `batch` or a fixed number."""

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def dynamic_batch(self) -> bool:
        """Whether the batch size can be chosen."""
        return all(spec.shape[:1] == (BATCH_AXIS,) for spec in self.inputs)

    @property
    def fixed_batch(self) -> int:
        """The batch size of a model that cannot choose (1 where it can)."""
        return next((int(s.shape[0]) for s in self.inputs if s.shape and isinstance(s.shape[0], int)), 1)


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs that must be fed (initializers that are also listed as inputs are left out)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in constants)


def prepare(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> PreparedModel:
    """Prepare ``model``; ``shapes`` gives each input's shape *without* the batch axis.

    Raises:
        ModelError: ``shapes`` does not fit the inputs, an operator is unknown, the model cannot be upgraded, its shapes
            do not fit together, or it holds control flow.
    """
    work = _copy(model)
    constants = {tensor.name for tensor in work.graph.initializer}
    fed = [value for value in work.graph.input if value.name not in constants]
    del work.graph.input[:]
    work.graph.input.extend(fed)
    for value in work.graph.input:
        _fix_shape(value, shapes.get(value.name))
    _drop_unused(work.graph)
    _refuse_control_flow(work.graph)
    expand_group_norms(work.graph, _opset(work))
    work = _upgrade(work)
    del work.graph.value_info[:]
    _constants_to_initializers(work.graph)
    work = _infer(work)
    _fold(work.graph, _opset(work))
    _drop_unused(work.graph)
    _name_nodes(work.graph)
    _forget_output_shapes(work.graph)
    del work.graph.value_info[:]
    work = _infer(work)
    if any([rewrite_modulated(work), rewrite_transposed(work)]):
        _drop_unused(work.graph)
        work = _infer(work)
    _require_shapes(work.graph)
    return PreparedModel(work, input_specs(work), tuple(_spec(value) for value in work.graph.output))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to work on, without local functions: to us, a function's nodes are nodes like any other."""
    work = onnx.ModelProto()
    work.CopyFrom(model)
    work.ir_version = max(work.ir_version, _OLDEST_IR)
    if not work.functions:
        return work
    try:
        return inliner.inline_local_functions(work)
    except Exception as error:
        raise ModelError(
            f"the model's local functions cannot be inlined: {str(error).strip()}", "export the model without functions"
        ) from error


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.shape.dim)
    return TensorSpec(value.name, shape, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name)


def _fix_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...] | None) -> None:
    spec = _spec(value)
    if shape is None:
        raise ModelError(f"the model's input {spec} is not described", "describe it with --input")
    fits = len(spec.shape) == len(shape) + 1 and all(
        not isinstance(have, int) or have == want for have, want in zip(spec.shape[1:], shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, ("N", *shape)))
        raise ModelError(
            f"the input {value.name!r} is described as [{wanted}], but the model takes {spec}",
            "correct the --input that describes it (SIZE for an image, the embedder for an embedding, the array's "
            "shape without batch axis for a file)",
        )
    dims = value.type.tensor_type.shape.dim
    if not isinstance(spec.shape[0], int) or spec.shape[0] == 0:
        dims[0].Clear()
        dims[0].dim_param = BATCH_AXIS
    for dim, size in zip(list(dims)[1:], shape, strict=True):
        dim.Clear()
        dim.dim_value = size


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 1)


def _upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    if _opset(model) >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise ModelError(
            f"the model has opset {_opset(model)} and cannot be upgraded to {OPSET}: {str(error).splitlines()[0]}",
            f"export it again with opset_version={OPSET}",
        ) from error


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ModelError(
            f"the model's shapes do not fit together: {str(error).strip().splitlines()[0]}",
            "check the sizes given with --input; otherwise export the model again",
        ) from error


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        value = _constant_value(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _constant_value(node: onnx.NodeProto) -> Array | None:
    attribute = node.attribute[0]
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    if attribute.name in {"value_float", "value_floats"}:
        return np.array(onnx.helper.get_attribute_value(attribute), np.float32)
    if attribute.name in {"value_int", "value_ints"}:
        return np.array(onnx.helper.get_attribute_value(attribute), np.int64)
    return None


def _fold(graph: onnx.GraphProto, opset: int) -> None:
    """Evaluate every node whose inputs are all known, `Shape` of a tensor of known size included."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    sizes = {v.name: s for v in (*graph.value_info, *graph.input) if (s := _static_shape(v)) is not None}
    kept = []
    for node in graph.node:
        values = None if outputs.intersection(node.output) else _evaluate(node, known, sizes, opset)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=True):
            known[name] = value
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    del graph.node[:]
    graph.node.extend(kept)


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _evaluate(
    node: onnx.NodeProto, known: Mapping[str, Array], sizes: Mapping[str, tuple[int, ...]], opset: int
) -> list[Array] | None:
    if node.op_type == "Shape" and node.input[0] in sizes and not node.attribute:
        return [np.array(sizes[node.input[0]], np.int64)]
    inputs = [name for name in node.input if name]
    if node.op_type in _NOT_FOLDABLE or node.domain not in {"", "ai.onnx"} or not all(node.output):
        return None
    if not inputs or any(name not in known for name in inputs):
        return None
    try:
        results = ReferenceEvaluator(node, opsets={"": opset}).run(None, {name: known[name] for name in inputs})
    except Exception:  # whatever onnx's evaluator lacks, the engine maker computes instead
        return None
    if not all(isinstance(r, np.ndarray | np.generic) for r in results):
        return None
    values = [np.asarray(r) for r in results]
    return values if sum(v.nbytes for v in values) <= _FOLD_LIMIT_BYTES else None


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _refuse_control_flow(graph: onnx.GraphProto) -> None:
    found = [f"{node.op_type} {node.name!r}" for node in graph.node if node.op_type in _CONTROL_FLOW]
    if found:
        raise ModelError(
            f"the model branches or loops ({', '.join(found[:3])}): what runs would depend on the input",
            "export it with the inputs' sizes fixed, so that the exporter decides the branch; loops must be unrolled",
        )


def _require_shapes(graph: onnx.GraphProto) -> None:
    typed = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for name in filter(None, node.output):
            if name not in typed or not typed[name].elem_type or not typed[name].HasField("shape"):
                domain = f" (domain {node.domain})" if node.domain else ""
                raise ModelError(
                    f"the type or shape of {name!r}, made by {node.op_type}{domain} {node.name!r}, is not known",
                    "export the model with standard ONNX operators and fixed sizes",
                )


def _name_nodes(graph: onnx.GraphProto) -> None:
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
            while node.name in seen:
                node.name += "_"
        seen.add(node.name)


def _forget_output_shapes(graph: onnx.GraphProto) -> None:
    """Let inference say the outputs' sizes anew: the file's may hold names that are fixed by now."""
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        value.type.tensor_type.Clear()
        value.type.tensor_type.elem_type = kind
