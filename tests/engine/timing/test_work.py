from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rtx_kernels import CONVOLUTIONS, FUSED, KERNELS

from trt_facefusion.engine.backends import inspector
from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.timing.work import KINDS, NOTHING, classify, count_elements, measure_work

AXIS = st.integers(1, 9)


def test_a_logged_convolution_moves_what_its_tensors_hold_and_multiplies_each_weight_with_each_pixel() -> None:
    work = measure_work(CONVOLUTIONS["mid_myl0_3"])
    assert work.read == {"int8": 32 * 64 * 64}
    assert work.held["int8"] == 64 * 32 * 3 * 3
    assert work.written == {"fp32": 64 * 32 * 32 * 4}
    assert (work.macs, work.arithmetic, work.kind) == (64 * 32 * 9 * 32 * 32, "int8", "convolution")


def test_a_tensor_that_a_kernel_lists_twice_is_read_once() -> None:
    kernel = KERNELS["t3+t2+t1_myl0_1"]
    assert measure_work(replace(kernel, inputs=kernel.inputs * 2)).read == measure_work(kernel).read


def test_a_logged_gemm_of_three_layers_multiplies_for_all_of_them() -> None:
    work = measure_work(KERNELS["t3+t2+t1_myl0_1"])
    assert (work.kind, work.macs, work.arithmetic) == ("matrix product", 256 * 1152, "int8")
    assert work.written == {"fp16": 1152 * 2}


def test_a_convolution_that_is_fused_into_a_generated_kernel_is_counted() -> None:
    plain, grouped = measure_work(FUSED["__myl_CorrMulMax_myl0_1"]), measure_work(FUSED["__myl_CorrAddRelu_myl0_3"])
    assert (plain.kind, plain.macs, plain.arithmetic) == ("convolution", 64 * 4 * 9 * 32 * 32, "fp16")
    assert (grouped.kind, grouped.macs) == ("convolution", 64 * 16 * 9 * 32 * 32)


def test_fused_attention_is_two_products_in_one_kernel() -> None:
    work = measure_work(FUSED["_gemm_mha_v2_myl0_16"])
    heads, length, depth = 4, 1024, 16
    assert (work.kind, work.macs) == ("attention", 2 * heads * length * length * depth)


def test_events_and_host_code_in_a_log_cost_nothing() -> None:
    idle = {kernel.type for kernel in KERNELS.values() if classify(kernel) == NOTHING}
    assert idle == {"signal", "wait", "shape_call"}
    assert all(measure_work(kernel).moved_bytes > 0 for kernel in KERNELS.values() if kernel.type not in idle)


def test_a_kernel_that_only_makes_integers_is_a_quantiser() -> None:
    first = next(iter(CONVOLUTIONS.values()))
    assert (first.outputs[0].dtype, classify(first), measure_work(first).macs) == ("int8", "quantiser", 0)


def layer(kind: str, inputs: list[dict[str, object]], output: dict[str, object], **more: object) -> Kernel:
    text = json.dumps({"Layers": [{"Name": "l", "LayerType": kind, "Inputs": inputs, "Outputs": [output], **more}]})
    kernels = inspector.parse(text)
    assert kernels is not None
    return kernels[0]


def inspected(shape: list[int], layout: str) -> dict[str, object]:
    return {"Name": "t", "Dimensions": shape, "Format/Datatype": layout}


CHW32 = "Thirty-two wide channel vectorized row major Int8 format"
HWC8 = "Channel major FP16 format where channel % 8 == 0"


def test_the_inspector_s_count_of_weights_is_enough_for_multiplications() -> None:
    weights = {"Type": "Int8", "Count": 64 * 3 * 49}
    conv = layer("CaskConvolution", [inspected([1, 3, 8, 8], CHW32)], inspected([1, 64, 4, 4], HWC8), Weights=weights)
    work = measure_work(conv)
    assert (work.macs, work.arithmetic) == (64 * 3 * 49 * 4 * 4, "int8")
    assert (work.held, count_elements(conv.constants[0])) == ({"int8": 64 * 3 * 49}, 64 * 3 * 49)


def test_a_vectorised_format_stores_its_channels_up_to_a_multiple() -> None:
    copy = layer("Reformat", [inspected([2, 3, 8, 8], CHW32)], inspected([2, 3, 8, 8], HWC8))
    work = measure_work(copy)
    assert work.read == {"int8": 2 * 32 * 64} and work.written == {"fp16": 2 * 8 * 64 * 2}
    assert work.kind == "copy"


@pytest.mark.parametrize(
    ("tactic", "arithmetic"),
    [
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_stage3", "fp16"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f16_f16_nhwckcrs_nhwc_tilesize64x64x64", "fp16_acc"),
        ("turing_h1688gemm_128x64_sliced1x2_ldg8_nn_v1", "fp16_acc"),
        ("ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_64x3_nn", "fp16"),
    ],
)
def test_a_tactic_tells_what_half_precision_is_summed_in(tactic: str, arithmetic: str) -> None:
    half = inspected([1, 8, 4, 4], HWC8)
    weights = {"Type": "Half", "Count": 8 * 8 * 9}
    assert measure_work(layer("CaskConvolution", [half], half, Weights=weights, TacticName=tactic)).arithmetic == (
        arithmetic
    )


def test_fp32_rounds_to_tf32_only_where_that_may_be() -> None:
    def multiply(tactic: str) -> str:
        full = inspected([1, 8, 4, 4], "Row major linear FP32")
        weights = {"Type": "Float", "Count": 8 * 8 * 9}
        return measure_work(layer("CaskConvolution", [full], full, Weights=weights, TacticName=tactic)).arithmetic

    assert multiply("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc") == "tf32"
    assert multiply("ampere_scudnn_128x64_relu_small_nn_v1") == multiply("") == "fp32"
    assert multiply("__myelin_CASK_STUB") == "tf32"  # chosen on the GPU, and the builder allows it


def tensors(*shapes: tuple[int, ...], dtype: str = "fp16") -> tuple[TensorFormat, ...]:
    return tuple(TensorFormat(f"t{i}", dtype, shape) for i, shape in enumerate(shapes))


@given(n=AXIS, c=AXIS, k=AXIS, size=AXIS, window=AXIS, groups=AXIS)
def test_multiplications_of_convolutions(n: int, c: int, k: int, size: int, window: int, groups: int) -> None:
    c_in, c_out = c * groups, k * groups
    weights = tensors((c_out, c, window, window))
    convolution = Kernel("", "correlation", (), tensors((n, c_in, 9, 9)), weights, tensors((n, c_out, size, size)))
    assert measure_work(convolution).macs == n * c_out * size * size * c * window * window
    transposed = Kernel("", "deconv", (), tensors((n, c_in, size, size)), tensors((c_in, k, window, window)))
    transposed = Kernel(
        "", "deconv", (), transposed.inputs, transposed.constants, tensors((n, c_out, 2 * size, 2 * size))
    )
    assert measure_work(transposed).macs == n * c_in * size * size * k * window * window


@given(batch=st.lists(AXIS, max_size=2), m=AXIS, k=AXIS, n=AXIS, constant=st.booleans(), turned=st.booleans())
def test_multiplications_of_matrix_products(
    batch: list[int], m: int, k: int, n: int, constant: bool, turned: bool
) -> None:
    first, second, result = (*batch, m, k), (n, k) if turned else (k, n), (*batch, m, n)
    second = second if constant else (*batch, *second)
    held, read = (tensors(second), tensors(first)) if constant else ((), tensors(first, second))
    assert measure_work(Kernel("", "gemm", (), read, held, tensors(result))).macs == math.prod(result) * k


@given(batch=st.integers(1, 64), size=AXIS)
def test_a_dynamic_axis_counts_as_the_batch(batch: int, size: int) -> None:
    def convolve(n: int) -> Kernel:
        read, held, written = tensors((n, 4, size, size)), tensors((8, 4, 1, 1)), tensors((n, 8, size, size))
        return Kernel("", "correlation", (), read, held, written)

    assert measure_work(convolve(-1), batch) == measure_work(convolve(batch))


def test_every_kernel_of_a_log_has_a_kind() -> None:
    assert {classify(kernel) for kernel in (*KERNELS.values(), *CONVOLUTIONS.values())} <= set(KINDS)
