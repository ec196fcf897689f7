"""Attention as one operator becomes the products it consists of, and the picture stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from nets import run
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.model.graph import prepare


def attention(heads: int = 2, mask: np.ndarray | None = None, opset: int = 23, **attributes: Any) -> onnx.ModelProto:
    """Image -> 8 channels as tokens -> two times attention over them, one behind the other -> image."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 8)).astype(np.float32) / 3 for name in ("q", "k", "v")}
    weights["first"] = rng.standard_normal((8, 3, 1, 1)).astype(np.float32)
    weights["last"] = rng.standard_normal((3, 8, 1, 1)).astype(np.float32)
    sizes = {"tokens": np.array([0, 8, 16]), "image": np.array([0, 8, 4, 4])}
    inputs = ["qx", "kx", "vx", *(["mask"] if mask is not None else [])]
    if mask is not None:
        sizes["mask"] = mask
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "first"], ["f"], "first"),
        node("Reshape", ["f", "tokens"], ["t"], "split"),
        node("Transpose", ["t"], ["tt"], "turn", perm=[0, 2, 1]),
        *(node("MatMul", ["tt", name], [f"{name}x"], name) for name in "qkv"),
        node("Attention", inputs, ["a"], "self", q_num_heads=heads, kv_num_heads=heads, **attributes),
        node("Attention", ["a", "kx", "vx"], ["b"], "cross", q_num_heads=heads, kv_num_heads=heads),
        node("Transpose", ["b"], ["bt"], "back", perm=[0, 2, 1]),
        node("Reshape", ["bt", "image"], ["i"], "join"),
        node("Conv", ["i", "last"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [numpy_helper.from_array(array, name) for name, array in (weights | sizes).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


CAUSAL = np.triu(np.full((16, 16), -np.inf, np.float32), 1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"heads": 4, "scale": 0.3}, {"is_causal": 1}, {"mask": CAUSAL}, {"mask": CAUSAL == 0}, {"opset": 24}],
)
def test_attention_becomes_its_products(settings: dict[str, Any]) -> None:
    model = attention(**settings)
    prepared = prepare(model, {"x": (3, 4, 4)}).model
    x = np.random.default_rng(1).uniform(-1, 1, (3, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(prepared, {"x": x})["y"], run(model, {"x": x})["y"], atol=1e-5)
    kinds = [node.op_type for node in prepared.graph.node]
    assert "Attention" not in kinds
    assert kinds.count("MatMul") == 3 + 2 * 2
    products = [node.name for node in prepared.graph.node if node.op_type == "MatMul"]
    assert [name.split("/")[0] for name in products] == ["q", "k", "v", "self", "self", "cross", "cross"]
