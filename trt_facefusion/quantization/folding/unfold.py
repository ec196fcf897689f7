"""A lowered graph whose tensors have their original scale again, to be held against the graph that it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.messages import declare_weights
from trt_facefusion.quantization.folding.constants import Exponents
from trt_facefusion.types import Array

METADATA = "trt_facefusion.scaled_channels"
"""Key of a model's metadata: JSON, tensor -> log2 of what each of its channels is divided by."""


def note_exponents(model: onnx.ModelProto, exponents: Mapping[str, Exponents]) -> None:
    """Write into the metadata of ``model`` which of its tensors have scales folded into them."""
    text = json.dumps({name: values.tolist() for name, values in exponents.items()})
    for entry in [entry for entry in model.metadata_props if entry.key == METADATA]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=METADATA, value=text)


def copy_exponents(source: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Write into the metadata of ``model`` what that of ``source`` says of scales."""
    model.metadata_props.extend(entry for entry in source.metadata_props if entry.key == METADATA)


def unfold_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in which a scaled tensor has its original values, and is scaled again for what reads it.

    Both are products with powers of two, so that every other tensor, and the result, stay as they are. A model without
    scales is given back itself.

    Raises:
        ModelError: what its metadata says of scales is damaged.
    """
    exponents = _read_exponents(model)
    if not exponents:
        return model
    typed = GraphView(onnx.shape_inference.infer_shapes(declare_weights(model)))
    unfolded = onnx.ModelProto()
    unfolded.CopyFrom(model)
    del unfolded.graph.node[:]
    for source in model.graph.node:
        node = unfolded.graph.node.add()
        node.CopyFrom(source)
        node.input[:] = [_name_scaled_again(name) if name in exponents else name for name in node.input]
        for index, name in enumerate(source.output):
            if name in exponents:
                node.output[index] = f"{name}__scaled_down"
                _add_products(unfolded.graph, typed, name, exponents[name])
    return unfolded


def _read_exponents(model: onnx.ModelProto) -> dict[str, Exponents]:
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA]
    try:
        return {name: np.array(values, np.int64) for text in texts for name, values in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"the model's metadata {METADATA!r} is damaged: {error}", "build the engine that it belongs to again"
        ) from error


def _name_scaled_again(tensor: str) -> str:
    return f"{tensor}__scaled_again"


def _add_products(graph: onnx.GraphProto, typed: GraphView, tensor: str, exponents: Exponents) -> None:
    """Nodes that give ``tensor`` its original values, and the scaled ones behind."""
    shape = (1, -1, *(1,) * (len(typed.shape(tensor) or ()) - 2))
    dtype = helper.tensor_dtype_to_np_dtype(typed.element_type(tensor))
    chain = (f"{tensor}__scaled_down", tensor, _name_scaled_again(tensor))
    for source, result, powers in ((*chain[:2], exponents), (*chain[1:], -exponents)):
        factors: Array = np.ldexp(np.ones(len(powers)), powers).astype(dtype).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(factors, f"{result}__powers"))
        graph.node.append(helper.make_node("Mul", [source, f"{result}__powers"], [result], name=f"{result}__unfold"))
