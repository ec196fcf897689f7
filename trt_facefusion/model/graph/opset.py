"""Bring a graph to a newer opset without changing what it computes.

onnx's version converter does most of it. What it converts wrongly is written anew here, so that the result is what
onnxruntime computes from the file: until opset 10, sizes are interpolated from asymmetric coordinates; until 12,
Hardmax works on rows of a flattened matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.work import Work, summarise_error
from trt_facefusion.types import Array

_HIDDEN = "trt_facefusion.hidden"
"""A domain that the converter does not know: it leaves such nodes as they are."""


def upgrade(work: Work, opset: int) -> None:
    """Bring ``work``, whose constants are folded and shapes inferred, to ``opset``; a newer one stays.

    Raises:
        ModelError: the converter cannot.
    """
    if work.opset >= opset:
        return
    _rewrite_hardmax(work)
    hidden = _hide_resizes(work)

    def convert(model: onnx.ModelProto) -> onnx.ModelProto:
        try:
            return version_converter.convert_version(model, opset)
        except Exception as error:
            raise ModelError(
                f"the model has opset {work.opset} and cannot be upgraded to {opset}: {summarise_error(error)}",
                f"export it again with opset_version={opset}",
            ) from error

    work.through(convert)
    if hidden:
        _show_resizes(work)


def expand_mean_variance(work: Work) -> None:
    """Write MeanVarianceNormalization with plain operators: upgraded, its own definition is not valid any more."""
    made: list[onnx.NodeProto] = []
    for node in work.graph.node:
        if node.op_type != "MeanVarianceNormalization" or node.domain:
            made.append(node)
            continue
        x, y, name = node.input[0], node.output[0], node.name or node.output[0]
        axes = list(_read_settings(node).get("axes", [0, 2, 3]))
        inputs, attributes = ([], {"axes": axes}) if work.opset < 18 else ([f"{y}/axes"], {})
        if inputs:
            work.add(inputs[0], np.array(axes, np.int64))
        work.add(f"{y}/epsilon", np.array(1e-9, np.float32))
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("ReduceMean", [x, *inputs], "mean", attributes),
            ("Mul", [f"{y}/mean", f"{y}/mean"], "mean_squared", {}),
            ("Mul", [x, x], "square", {}),
            ("ReduceMean", [f"{y}/square", *inputs], "square_mean", attributes),
            ("Sub", [f"{y}/square_mean", f"{y}/mean_squared"], "variance", {}),
            ("Sqrt", [f"{y}/variance"], "deviation", {}),
            ("Sub", [x, f"{y}/mean"], "centred", {}),
            ("Add", [f"{y}/deviation", f"{y}/epsilon"], "safe", {}),
        ]
        made += [helper.make_node(k, i, [f"{y}/{o}"], f"{name}/{o}", **a) for k, i, o, a in steps]
        made.append(helper.make_node("Div", [f"{y}/centred", f"{y}/safe"], [y], name))
    _replace_nodes(work, made)


def _replace_nodes(work: Work, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del work.graph.node[:]
    work.graph.node.extend(copies)


def _read_settings(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _rewrite_hardmax(work: Work) -> None:
    """Until opset 12, Hardmax finds one largest value in all axes from ``axis`` on."""
    if work.opset >= 13:
        return
    made: list[onnx.NodeProto] = []
    for node in work.graph.node:
        if node.op_type != "Hardmax" or node.domain:
            made.append(node)
            continue
        x, y, axis = node.input[0], node.output[0], int(_read_settings(node).get("axis", 1))
        made.append(helper.make_node("Shape", [x], [f"{y}/shape"], f"{y}/shape"))
        made.append(helper.make_node("Flatten", [x], [f"{y}/rows"], f"{y}/rows", axis=axis))
        made.append(helper.make_node("Hardmax", [f"{y}/rows"], [f"{y}/largest"], node.name, axis=1))
        made.append(helper.make_node("Reshape", [f"{y}/largest", f"{y}/shape"], [y], f"{y}/back"))
    _replace_nodes(work, made)


def _hide_resizes(work: Work) -> bool:
    """Turn Upsample and the first Resize into nodes that the converter leaves alone, both as [x, scales], mode."""
    if work.opset > 10:
        return False
    found = [n for n in work.graph.node if n.op_type in {"Upsample", "Resize"} and not n.domain]
    for node in found:
        settings = _read_settings(node)
        if len(node.input) == 1:
            name = f"{node.output[0]}/scales"
            work.add(name, np.array(settings["scales"], np.float32))
            node.input.append(name)
        mode = settings.get("mode", b"nearest")
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("mode", mode))
        node.op_type, node.domain = "Resize", _HIDDEN
    if found:
        work.model.opset_import.append(helper.make_opsetid(_HIDDEN, 1))
    return bool(found)


def _show_resizes(work: Work) -> None:
    nodes: list[onnx.NodeProto] = []
    constants = {t.name: work.tensor(t) for t in work.graph.initializer}
    for node in list(work.graph.node):
        nodes += _write_resizes(work, node, constants) if node.domain == _HIDDEN else [node]
    _replace_nodes(work, nodes)
    kept = [o for o in work.model.opset_import if o.domain != _HIDDEN]
    del work.model.opset_import[:]
    work.model.opset_import.extend(kept)


def _write_resizes(work: Work, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """The node in today's words. The nearest pixel was rounded down to enlarge, up to reduce: one Resize for each."""
    mode = _read_settings(node)["mode"]
    mode = "linear" if mode in {b"linear", b"bilinear"} else "nearest"
    (x, scales), y = node.input, node.output[0]
    known = constants.get(scales)
    values: Array | None = None if known is None else numpy_helper.to_array(known)
    if mode == "linear" or values is None or not (values < 1).any():
        return [_make_resize(node.name, x, scales, y, mode, "floor")]
    if not (values > 1).any():
        return [_make_resize(node.name, x, scales, y, mode, "ceil")]
    work.add(f"{y}/enlarge", np.maximum(values, 1).astype(np.float32))
    work.add(f"{y}/reduce", np.minimum(values, 1).astype(np.float32))
    first = _make_resize(f"{node.name or y}/enlarge", x, f"{y}/enlarge", f"{y}/enlarged", mode, "floor")
    return [first, _make_resize(node.name, f"{y}/enlarged", f"{y}/reduce", y, mode, "ceil")]


def _make_resize(name: str, x: str, scales: str, y: str, mode: str, nearest: str) -> onnx.NodeProto:
    rounding = {"nearest_mode": nearest} if mode == "nearest" else {}
    return helper.make_node(
        "Resize", [x, "", scales], [y], name, mode=mode, coordinate_transformation_mode="asymmetric", **rounding
    )
