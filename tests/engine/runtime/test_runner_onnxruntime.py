from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.engine.runtime.half import round_to_fp16
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BadInputError, ModelError


def model(nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], weights: dict[str, np.ndarray]) -> bytes:
    takes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, next(iter(inputs.values())))]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", takes, gives, stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def add() -> bytes:
    return model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": ["N", 2], "b": ["N", 2]}, {})


def half_product(factors: list[float]) -> bytes:
    """y = x * factor * factor ... in FP16."""
    nodes = [helper.make_node("Cast", ["x"], ["h0"], to=TensorProto.FLOAT16)]
    for i in range(len(factors)):
        nodes.append(helper.make_node("Mul", [f"h{i}", f"f{i}"], [f"h{i + 1}"]))
    nodes.append(helper.make_node("Cast", [f"h{len(factors)}"], ["y"], to=TensorProto.FLOAT))
    return model(nodes, {"x": ["N"]}, {f"f{i}": np.array(factor, np.float16) for i, factor in enumerate(factors)})


FEEDS = {"a": np.ones((3, 2), np.float32), "b": np.full((3, 2), 2, np.float32)}


@pytest.mark.parametrize("optimise", [True, False])
def test_models_run_from_bytes_file_and_memory(tmp_path: Path, optimise: bool) -> None:
    (tmp_path / "add.onnx").write_bytes(add())
    for source in (add(), tmp_path / "add.onnx", onnx.load_model_from_string(add())):
        with OnnxRuntimeRunner(source, threads=1, optimise=optimise) as runner:
            assert [str(spec) for spec in runner.inputs] == ["a: float32 [N, 2]", "b: float32 [N, 2]"]
            np.testing.assert_array_equal(runner.infer(FEEDS)["y"], np.full((3, 2), 3, np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": None}, "missing"),
        ({"c": FEEDS["a"]}, "'c'"),
        ({"a": FEEDS["a"].astype(np.float64)}, "float64"),
        ({"a": FEEDS["a"][:, :1]}, "shape"),
        ({"a": FEEDS["a"][0]}, "shape"),
        ({"a": FEEDS["a"][:0], "b": FEEDS["b"][:0]}, "shape"),
        ({"b": FEEDS["b"][:2]}, "N = 3"),
    ],
)
def test_wrong_feeds_are_refused_and_the_inputs_shown(change: dict[str, np.ndarray | None], said: str) -> None:
    feeds = {name: value for name, value in {**FEEDS, **change}.items() if value is not None}
    with OnnxRuntimeRunner(add()) as runner, pytest.raises(BadInputError) as error:
        runner.infer(feeds)
    assert said in error.value.message
    assert "a: float32 [N, 2]; b: float32 [N, 2]" in error.value.remedy


@pytest.mark.parametrize("stand_in", [False, True])
@pytest.mark.parametrize("source", [b"", b"garbage", add()[:60], Path("nowhere.onnx")])
def test_what_cannot_be_loaded_is_told(source: bytes | Path, stand_in: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError):
        OnnxRuntimeRunner(source, stand_in=stand_in)
    assert capfd.readouterr().err == ""


def test_a_closed_runner_does_not_run() -> None:
    runner = OnnxRuntimeRunner(add())
    runner.close()
    runner.close()
    with pytest.raises(RuntimeError):
        runner.infer(FEEDS)


def test_a_failure_inside_the_model_is_told() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    runner = OnnxRuntimeRunner(model(nodes, {"x": ["N"]}, {"shape": np.array([7])}))
    with pytest.raises(ModelError, match="Reshape"):
        runner.infer({"x": np.ones(3, np.float32)})


def test_the_stand_in_sees_an_overflow_that_a_plain_run_hides() -> None:
    feeds = {"x": np.array([1, 1000], np.float32)}
    with OnnxRuntimeRunner(half_product([300, 1 / 300])) as plain:
        assert np.isfinite(plain.infer(feeds)["y"]).all()
    for optimise in (True, False):
        with OnnxRuntimeRunner(half_product([300, 1 / 300]), optimise=optimise, stand_in=True) as runner:
            assert np.isinf(runner.infer(feeds)["y"]).tolist() == [False, True]


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(np.float32, 4, elements=st.floats(-100, 100, width=32)),
    st.lists(st.floats(0.125, 10, width=16), min_size=1, max_size=4),
)
def test_the_stand_in_rounds_like_fp16(x: np.ndarray, factors: list[float]) -> None:
    expected = x.astype(np.float16)
    with np.errstate(over="ignore"):
        for factor in factors:
            expected = expected * np.float16(factor)
    with OnnxRuntimeRunner(half_product(factors), threads=1, stand_in=True) as runner:
        np.testing.assert_array_equal(runner.infer({"x": x})["y"], expected.astype(np.float32))


def test_fp16_inputs_and_outputs_keep_their_type() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sqrt", ["x"], ["r"]), helper.make_node("Identity", ["r"], ["y"])],
        "net",
        [value("x", TensorProto.FLOAT16, ["N"])],
        [value("r", TensorProto.FLOAT16, ["N"]), value("y", TensorProto.FLOAT16, ["N"])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(round_to_fp16(proto), full_check=True)
    x = np.array([2, 3], np.float16)
    with OnnxRuntimeRunner(proto, stand_in=True) as runner:
        assert {name: y.tolist() for name, y in runner.infer({"x": x}).items()} == dict.fromkeys(
            "ry", np.sqrt(x).tolist()
        )


def test_a_model_without_fp16_is_left_alone() -> None:
    proto = onnx.load_model_from_string(add())
    assert round_to_fp16(proto) is proto


def test_operators_of_unknown_type_are_refused_by_name() -> None:
    proto = onnx.load_model_from_string(half_product([2]))
    proto.graph.node[1].domain = "com.example"
    with pytest.raises(ModelError, match="Mul"):
        round_to_fp16(proto)


def test_int8_convolutions_run_as_the_integers_say() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1, 4, 6, 6)).astype(np.float32)
    w = rng.integers(-127, 128, (4, 4, 1, 1), np.int8)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["v"], axis=0),
        helper.make_node("Conv", ["d", "v"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    s, t = np.float16(1 / 127), np.full(4, 1 / 127, np.float16)
    typed = model(nodes, {"x": [1, 4, 6, 6]}, {"s": s, "z": np.int8(0), "w": w, "t": t})
    q = np.clip(np.rint(x.astype(np.float16).astype(np.float32) / np.float32(s)), -128, 127)
    exact = np.einsum("oi,nihw->nohw", w[:, :, 0, 0].astype(np.float64), q) * float(s) * float(t[0])
    with OnnxRuntimeRunner(typed, stand_in=True) as runner:
        # one FP16 rounding step, at most
        np.testing.assert_allclose(runner.infer({"x": x})["y"], exact.astype(np.float16), rtol=2e-3, atol=1e-6)
