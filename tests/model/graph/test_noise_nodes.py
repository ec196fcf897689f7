"""Random nodes: found by name in the graph as it was handed in, and fixed where that is asked for."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.graph.noise import (
    Noise,
    draw_noise,
    find_random_nodes,
    fix_noise,
    parse_noise,
    require_no_noise,
)
from trt_facefusion.types import Array


def model(*nodes: onnx.NodeProto, opset: int = 20, constants: dict[str, Array] | None = None) -> onnx.ModelProto:
    """``x`` [N,2,3,3] -> ``y``."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 3, 3]) for name in "xy"]
    weights = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", [sides[0]], [sides[1]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def noisy(op: str = "RandomNormalLike", source: str = "x", **attributes: object) -> onnx.ModelProto:
    inputs = [source] if op.endswith("Like") else []
    return model(
        helper.make_node(op, inputs, ["n"], "inject_noise", **attributes),
        helper.make_node("Add", ["x", "n"], ["y"], "add"),
    )


def run(graph: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


X = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)


def test_a_noise_node_is_told_by_name_with_the_option_that_fixes_it() -> None:
    with pytest.raises(ModelError, match=r"inject_noise .* is random, no verdict is possible") as caught:
        require_no_noise(noisy())
    assert "--noise zero" in caught.value.remedy


def test_what_no_output_depends_on_is_no_noise() -> None:
    graph = model(
        helper.make_node("RandomNormalLike", ["x"], ["unused"], "idle"), helper.make_node("Relu", ["x"], ["y"], "r")
    )
    assert not find_random_nodes(graph)


@pytest.mark.parametrize(("training", "random"), [(True, True), (False, False), (None, False)])
def test_dropout_is_random_in_training_only(training: bool | None, random: bool) -> None:
    constants = {"ratio": np.float32(0.5)} | ({} if training is None else {"mode": np.array(training)})
    inputs = ["x", "ratio"] if training is None else ["x", "ratio", "mode"]
    graph = model(helper.make_node("Dropout", inputs, ["y"], "drop"), constants=constants)
    assert [node.name for node in find_random_nodes(graph)] == (["drop"] if random else [])
    if random:
        with pytest.raises(ModelError) as caught:
            require_no_noise(graph)
        assert "--noise" not in caught.value.remedy and "eval()" in caught.value.remedy


def test_noise_in_a_branch_is_found() -> None:
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("RandomNormalLike", ["x"], ["b"], "hidden")], "t", [], [out])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["b"], "same")], "e", [], [out])
    graph = model(
        helper.make_node("If", ["flag"], ["y"], "choose", then_branch=then, else_branch=other),
        constants={"flag": np.array(True)},
    )
    assert [node.name for node in find_random_nodes(graph)] == ["hidden"]
    assert np.array_equal(run(fix_noise(graph, Noise()), X), np.zeros_like(X))
    with pytest.raises(ModelError, match="hidden"):
        fix_noise(graph, Noise(1))


@pytest.mark.parametrize(
    "graph",
    [
        noisy(),
        noisy("RandomUniformLike", low=2.0, high=3.0),
        noisy("RandomNormal", shape=[1, 2, 3, 3]),
        noisy("RandomUniform", shape=[2, 3, 3], dtype=TensorProto.FLOAT),
        noisy(dtype=TensorProto.FLOAT),
    ],
    ids=["like", "uniform like", "normal", "uniform", "typed"],
)
def test_zero_leaves_the_network_without_its_noise(graph: onnx.ModelProto) -> None:
    fixed = fix_noise(graph, Noise())
    assert not find_random_nodes(fixed) and len(find_random_nodes(graph)) == 1
    assert np.array_equal(run(fixed, X), X)


def test_seeded_noise_is_noise_and_the_same_for_every_sample_run_and_batch() -> None:
    graph = noisy(mean=5.0, scale=0.1)
    noise = draw_noise(find_random_nodes(graph), {"n": np.zeros((1, 2, 3, 3), np.float32)}, 7)
    fixed = fix_noise(graph, noise)
    added = run(fixed, X) - X
    assert np.allclose(added, added[:1]) and np.allclose(run(fixed, X[:1]) - X[:1], added[:1])
    assert abs(added.mean() - 5) < 0.1 and added.std() > 0.02
    again = draw_noise(find_random_nodes(graph), {"n": np.zeros((1, 2, 3, 3), np.float32)}, 7)
    assert np.array_equal(again.values["n"], noise.values["n"])
    other = draw_noise(find_random_nodes(graph), {"n": np.zeros((1, 2, 3, 3), np.float32)}, 8)
    assert not np.array_equal(other.values["n"], noise.values["n"])


def test_noise_keeps_the_type_of_a_graph_in_half_precision() -> None:
    graph = model(
        helper.make_node("Cast", ["x"], ["h"], "down", to=TensorProto.FLOAT16),
        helper.make_node("RandomNormalLike", ["h"], ["n"], "noise"),
        helper.make_node("Add", ["h", "n"], ["s"], "add"),
        helper.make_node("Cast", ["s"], ["y"], "up", to=TensorProto.FLOAT),
    )
    assert np.allclose(run(fix_noise(graph, Noise()), X), X, atol=2e-3)


@pytest.mark.parametrize(("text", "seed"), [("zero", None), ("seed", 0), ("seed:12", 12)])
def test_the_option_is_read(text: str, seed: int | None) -> None:
    assert parse_noise(text).seed == seed


@pytest.mark.parametrize("text", ["", "none", "seed:", "seed:-1", "seed:x", "12"])
def test_what_the_option_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="--noise"):
        parse_noise(text)
