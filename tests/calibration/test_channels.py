"""Largest magnitudes of channels."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from trt_facefusion.calibration.channels import channel_amax


def test_peaks_are_those_of_all_batches_in_any_order():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [value("y", TensorProto.FLOAT, ["N", 3, 4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((n, 3, 4, 4)).astype(np.float32)} for n in (2, 1, 3)]
    peaks = channel_amax(model, ["y", "x"], batches)
    everything = np.abs(np.concatenate([b["x"] for b in batches])).max(axis=(0, 2, 3))
    np.testing.assert_array_equal(peaks["y"], everything)
    np.testing.assert_array_equal(peaks["x"], everything)
    np.testing.assert_array_equal(channel_amax(model, ["y"], batches[::-1])["y"], peaks["y"])
