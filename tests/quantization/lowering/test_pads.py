"""Quantisers in front of a Pad: the same numbers, to the bit, wherever a Pad gives only what it was given."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import Net, feeds, run

from trt_facefusion.quantization.lowering.pads import quantise_before_pads

SIDE = 9


def padded(
    mode: str, value: float | None = None, sizes: tuple[int, ...] = (1, 1, 1, 1), zero: int = 0
) -> onnx.ModelProto:
    """Pad -> quantise -> dequantise -> convolution."""
    net = Net()
    top, left, bottom, right = sizes
    pads = net.const([0, 0, top, left, 0, 0, bottom, right], np.int64)
    reads = ["x", pads] + ([] if value is None else [net.const(value)])
    grid = [net.const(0.01), net.const(zero, np.uint8 if zero else np.int8)]
    quantised = net.op("QuantizeLinear", net.op("Pad", *reads, mode=mode, name="pad"), *grid, name="q")
    y = net.conv(net.op("DequantizeLinear", quantised, *grid, name="dq"), 3, 4, name="conv", pads=[0] * 4)
    shape = [1, 4, SIDE + top + bottom - 2, SIDE + left + right - 2]
    return net.model({"x": [1, 3, SIDE, SIDE]}, {y: shape})


def list_operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@given(
    st.sampled_from([("reflect", None), ("edge", None), ("constant", None), ("constant", 0.0)]),
    st.tuples(*[st.integers(0, 4)] * 4),
    st.sampled_from([0, 100]),
    st.integers(0, 9),
)
def test_pictures_stay_the_same_to_the_bit(
    how: tuple[str, float | None], sizes: tuple[int, ...], zero: int, seed: int
) -> None:
    model = padded(*how, sizes, zero)
    rewritten = quantise_before_pads(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert list_operators(rewritten) == ["QuantizeLinear", "DequantizeLinear", "Pad", "Conv"]
    inputs = feeds({"x": (3, SIDE, SIDE)}, batch=1, seed=seed)
    before, behind = (run(m, inputs, exact=True)["conv"] for m in (model, rewritten))
    assert np.array_equal(before, behind)


def test_other_values_are_padded_with_before_they_are_rounded() -> None:
    model = padded("constant", 0.503)
    assert quantise_before_pads(model) is model


@pytest.mark.parametrize("reader", ["Relu", None])
def test_what_others_read_stays_padded_for_them(reader: str | None) -> None:
    model = padded("reflect")
    if reader:
        model.graph.node.append(onnx.helper.make_node(reader, ["pad"], ["other"], name="other"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("other" if reader else "pad", 1, None))
    assert quantise_before_pads(model) is model
