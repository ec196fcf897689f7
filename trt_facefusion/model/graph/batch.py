"""Nodes whose result for one sample depends on the others of its batch, found in the graph as it was handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.view import read_attribute
from trt_facefusion.model.messages import strip_weights

_BATCH = "batch"
_SMALL = 64
"""Elements of constants whose values shapes may follow from."""
_SMALL_BYTES = 8 * _SMALL + 1
_CHOOSES = {"ArgMax", "ArgMin", "TopK"}
_NORMALISES = {"Softmax", "LogSoftmax", "Hardmax", "LpNormalization"}
_EVALUATION = "export the network in evaluation mode (net.eval()), so that only the sample decides"
_FIXED = "or with a batch that is fixed at 1, if it will only ever run one face at a time"
_DEFAULT_AXIS = {"ArgMax": 0, "ArgMin": 0}


def find_fixed_batch(model: onnx.ModelProto) -> int | None:
    """The batch that the model's inputs insist on; None where it can be chosen."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    dims = [list(value.type.tensor_type.shape.dim) for value in inputs]
    widest = max((len(d) for d in dims), default=0)
    first = [d[0] for d in dims if len(d) == widest and d]
    sizes = {d.dim_value for d in first if d.HasField("dim_value") and d.dim_value > 0}
    return min(sizes) if sizes else None


def require_samples_apart(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], *, single: bool = False) -> None:
    """Raise `ModelError`, naming the node, if a sample's picture depends on the others of its batch.

    ``shapes`` are the inputs' without batch axis. What no rule here knows is left to a check by running. A batch that
    is fixed at 1, by the file or (``single``) by how it is fed, has no others.
    """
    trained = _find_batch_statistics(model)
    if trained:
        raise _report_mixing(trained[0], "normalises", _EVALUATION)
    found = [] if single or find_fixed_batch(model) is not None else _find_mixing_nodes(model, shapes)
    if found:
        raise _report_mixing(*found[0], f"{_EVALUATION}; {_FIXED}")


def _report_mixing(node: onnx.NodeProto, verb: str, remedy: str) -> ModelError:
    name = node.name or node.output[0]
    return ModelError(
        f"{name} ({node.op_type}) {verb} over the batch: a face's picture depends on those that run beside it", remedy
    )


def _find_batch_statistics(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Batch normalisations in training mode; also in a batch of one onnxruntime keeps a state in them."""
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 1)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return [n for n in nodes if n.op_type == "BatchNormalization" and _is_training(n, opset)]


def _is_training(node: onnx.NodeProto, opset: int) -> bool:
    if opset >= 14:
        return bool(read_attribute(node, "training_mode", 0))
    if opset < 7:
        return not read_attribute(node, "is_test", 0)
    return len([name for name in node.output if name]) > 1


def _find_mixing_nodes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> list[tuple[onnx.NodeProto, str]]:
    """Nodes that reduce, normalise or choose along an axis that is the batch."""
    known = _infer_shapes(model, shapes)
    constants = _collect_small_constants(model.graph)
    alive = {value.name for value in model.graph.input}
    found = []
    for node in model.graph.node:
        if alive.isdisjoint(node.input) or node.op_type in {"Shape", "Size"}:
            continue
        alive.update(name for name in node.output if name)
        shape = known.get(node.input[0]) if node.input[0] in alive else None
        if shape is None or len(shape) < 2 or shape[0] != _BATCH or node.domain not in {"", "ai.onnx"}:
            continue
        verb = _name_mixing(node, len(shape), constants)
        if verb:
            found.append((node, verb))
    return found


def _name_mixing(node: onnx.NodeProto, rank: int, constants: Mapping[str, list[int]]) -> str:
    """What ``node`` does along axis 0 of its first input; empty where it leaves samples apart."""
    kind = node.op_type
    if kind.startswith("Reduce"):
        axes = _read_axes(node, constants)
        if axes == [] and read_attribute(node, "noop_with_empty_axes", 0):
            return ""
        return "reduces" if axes is not None and (not axes or _holds_first(axes, rank)) else ""
    if kind == "MeanVarianceNormalization":
        over = read_attribute(node, "axes", [0, 2, 3])
        return "normalises" if isinstance(over, list) and _holds_first(over, rank) else ""
    if kind == "CumSum":
        axes = constants.get(node.input[1])
        return "sums" if axes and _holds_first(axes, rank) else ""
    if kind in _CHOOSES | _NORMALISES | {"LayerNormalization"}:
        axis = read_attribute(node, "axis", _DEFAULT_AXIS.get(kind, -1))
        if isinstance(axis, int) and axis in {0, -rank}:
            return "chooses" if kind in _CHOOSES else "normalises"
    return ""


def _read_axes(node: onnx.NodeProto, constants: Mapping[str, list[int]]) -> list[int] | None:
    """The axes of a reduction, empty for all; None where they are computed."""
    if len(node.input) > 1 and node.input[1]:
        return constants.get(node.input[1])
    axes = read_attribute(node, "axes", [])
    return axes if isinstance(axes, list) else []


def _holds_first(axes: Sequence[int], rank: int) -> bool:
    return any(axis in {0, -rank} for axis in axes)


def _collect_small_constants(graph: onnx.GraphProto) -> dict[str, list[int]]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        value = read_attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            tensors[node.output[0]] = value
    return {
        name: numpy_helper.to_array(tensor).ravel().tolist()
        for name, tensor in tensors.items()
        if tensor.data_type == TensorProto.INT64 and _count_elements(tensor) <= _SMALL and not tensor.external_data
    }


def _count_elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _infer_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, list[int | str]]:
    """Shapes of all tensors as far as they follow, with the batch by its name; nothing where onnx infers nothing."""
    light = strip_weights(model, _SMALL_BYTES)
    constants = {tensor.name for tensor in light.graph.initializer}
    for value in light.graph.input:
        shape = shapes.get(value.name)
        kind = value.type.tensor_type
        if value.name not in constants and shape is not None and len(kind.shape.dim) == len(shape) + 1:
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind.elem_type, [_BATCH, *shape]))
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # onnx's own errors for what it does not know; the check by running still comes
        return {}
    return {
        value.name: [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.HasField("shape")
    }
