"""Inputs and outputs of a prepared graph: batch axes, outputs that are kept, pixels of uint8."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from trt_facefusion.model.graph import GraphView, Role, classify, prepare
from trt_facefusion.model.graph.border import infer_output_specs


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')


TWO = """g (float[N,3,H,W] x, float[128] v) => (float[N,3,H,W] y, float[N,1,H,W] m, float[128] code) {
    y = Relu(x)
    one = Constant <value = int64[1] {1}> ()
    m = ReduceMax <axes = [1]> (x)
    code = Hardmax <axis = 0> (v)
}"""


def test_an_input_without_a_batch_axis_leaves_the_batch_to_the_others() -> None:
    shapes = {"x": (3, 16, 16), "v": (128,)}
    free = prepare(parsed(TWO), shapes)
    assert free.dynamic_batch and free.unbatched == {"v"}
    assert [spec.shape for spec in free.inputs] == [("batch", 3, 16, 16), (128,)]
    single = prepare(parsed(TWO), shapes, batch=1)
    assert not single.dynamic_batch and single.fixed_batch == 1
    assert single.inputs[0].shape == (1, 3, 16, 16)


def test_outputs_that_are_not_kept_take_their_nodes_along() -> None:
    shapes = {"x": (3, 16, 16), "v": (128,)}
    kept = prepare(parsed(TWO), shapes, outputs=["y", "m"])
    assert [spec.name for spec in kept.outputs] == ["y", "m"]
    assert {node.op_type for node in kept.model.graph.node} == {"Relu", "ReduceMax"}


def test_what_a_file_gives_is_known_before_it_is_prepared() -> None:
    found = infer_output_specs(parsed(TWO), {"x": (3, 16, 24), "v": (128,)})
    assert found is not None
    assert {spec.name: spec.shape[1:] for spec in found} == {"y": (3, 16, 24), "m": (1, 16, 24), "code": ()}


PIXELS = """g (uint8[1,8,8,3] frame) => (uint8[1,8,8,3] out) {{
    turned = Transpose <perm = [0, 3, 1, 2]> (frame)
    wide = Cast <to = 1> (turned)
    half = Constant <value = float {{0.5}}> ()
    dark = Mul (wide, half)
    whole = Cast <to = 2> (dark)
    {last}
}}"""


@pytest.mark.parametrize(
    "last",
    [
        "out = Transpose <perm = [0, 2, 3, 1]> (whole)",
        "o = Identity (whole)\n out = Transpose <perm = [0, 2, 3, 1]> (o)",
    ],
)
def test_pixels_are_moved_as_floats(last: str) -> None:
    model = parsed(PIXELS.format(last=last))
    prepared = prepare(model, {"frame": (8, 8, 3)}).model
    types = {v.name: v.type.tensor_type.elem_type for v in prepared.graph.value_info}
    assert TensorProto.UINT8 not in types.values()
    frame = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    results = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"frame": frame})[0]
        for m in (model, prepared)
    ]
    assert results[0].dtype == results[1].dtype == np.uint8
    np.testing.assert_array_equal(*results)


def test_pixels_that_something_else_reads_stay_as_they_are() -> None:
    last = "m = ReduceMax <axes = [1]> (turned)\n n = Expand (m, s)\n out = Transpose <perm = [0, 2, 3, 1]> (n)"
    text = PIXELS.format(last=last)
    model = parsed(text.replace("half =", "s = Constant <value = int64[4] {1, 3, 8, 8}> ()\n half ="))
    prepared = prepare(model, {"frame": (8, 8, 3)}).model
    onnx.checker.check_model(prepared, full_check=True)


def test_the_first_convolution_is_found_behind_casts_and_transposes() -> None:
    weight = np.zeros((4, 3, 3, 3), np.float32)
    text = """g (uint8[1,8,8,3] frame) => (float[1,8,8,3] out) {
        wide = Cast <to = 1> (frame)
        turned = Transpose <perm = [0, 3, 1, 2]> (wide)
        x = Conv <pads = [1, 1, 1, 1]> (turned, w1)
        r = Relu (x)
        y = Conv <pads = [1, 1, 1, 1]> (r, w2)
        out = Transpose <perm = [0, 2, 3, 1]> (y)
    }"""
    model = parsed(text)
    for name, values in (("w1", weight), ("w2", np.zeros((3, 4, 3, 3), np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    view = GraphView(prepare(model, {"frame": (8, 8, 3)}).model)
    roles = classify(view)
    assert [roles[node.name] for node in view.model.graph.node if node.op_type == "Conv"] == [
        Role.FIRST_CONV,
        Role.HEAD_CONV,
    ]
