from __future__ import annotations

from dataclasses import replace

import pytest

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.backends.kernels import find_int8_coverage, find_lowered_nodes
from trt_facefusion.engine.backends.tensorrt_kernels import MATH_TYPES
from trt_facefusion.types import Precision


def kernel(kind: str, nodes: tuple[str, ...], activation: str, weight: str) -> Kernel:
    return Kernel(
        name=f"{'+'.join(nodes)}_myl0_1",
        type=kind,
        nodes=nodes,
        inputs=(TensorFormat("x", activation, (1, 32, 8, 8)),),
        constants=(TensorFormat("w", weight, (32, 32, 3, 3)), TensorFormat("s", "fp32", (1,))),
        outputs=(TensorFormat("y", "fp32", (1, 32, 8, 8)),),
    )


def test_int8_kernels_are_counted_also_when_joined() -> None:
    coverage = find_int8_coverage({"a": "Gemm", "b": "Gemm"}, [kernel("gemm", ("b", "a"), "int8", "int8")], MATH_TYPES)
    assert (coverage.planned, coverage.real, coverage.missing) == (2, 2, ())
    assert coverage.details[0].dtypes == "int8 x int8 -> fp32"


def test_float_kernels_and_weight_only_kernels_are_missing() -> None:
    kernels = [kernel("correlation", ("a",), "fp16", "fp16"), kernel("gemm", ("b",), "fp16", "int8")]
    coverage = find_int8_coverage({"a": "Conv", "b": "Gemm"}, kernels, MATH_TYPES)
    assert coverage.missing == ("a", "b")
    assert coverage.details[1].dtypes == "fp16 x int8 -> fp32"


def test_a_kernel_that_only_pads_int8_proves_nothing() -> None:
    assert find_int8_coverage({"a": "Conv"}, [kernel("kgen", ("a",), "int8", "int8")], MATH_TYPES).missing == ("a",)


def test_one_float_kernel_among_several_makes_a_node_missing() -> None:
    kernels = [kernel("correlation", ("a",), "int8", "int8"), kernel("correlation", ("a",), "fp16", "fp16")]
    assert find_int8_coverage({"a": "Conv"}, kernels, MATH_TYPES).missing == ("a",)


def test_an_int8_scale_is_not_a_weight() -> None:
    only_scale = Kernel("k", "gemm", ("a",), (TensorFormat("x", "int8", (1, 8)),), (TensorFormat("s", "int8", (1,)),))
    assert find_int8_coverage({"a": "Gemm"}, [only_scale], MATH_TYPES).missing == ("a",)


def test_a_node_that_no_kernel_names_is_missing() -> None:
    coverage = find_int8_coverage({"a": "Conv"}, [], MATH_TYPES)
    assert coverage.missing == ("a",)
    assert coverage.details[0].kernel == ""


def test_a_typed_engine_is_held_against_its_plan_where_no_cast_is_fused_in() -> None:
    plan = {"head": Precision.FP32, "add": Precision.FP16, "a": Precision.INT8}
    alone = [kernel("kgen", ("head",), "fp16", "fp16"), kernel("kgen", ("add",), "int8", "int8")]
    alone = [replace(k, outputs=(TensorFormat("y", k.inputs[0].dtype, (1,)),)) for k in alone]
    assert set(find_lowered_nodes(plan, alone, typed=True)) == {"head", "add"}
    fused = [replace(k, nodes=(*k.nodes, "head__cast")) for k in alone]
    assert find_lowered_nodes(plan, fused, typed=True) == {}
    assert set(find_lowered_nodes(plan, fused)) == {"head", "add"}


@pytest.mark.parametrize(("factors", "missing"), [("int8", ()), ("fp16", ("a",))])
def test_a_kernel_that_tensorrt_rtx_makes_of_a_convolution_and_more_counts_by_its_factors(
    factors: str, missing: tuple[str, ...]
) -> None:
    kernels = [kernel("correlation", ("a",), "int8", "int8"), kernel("runtime_fusion", ("a",), factors, factors)]
    assert find_int8_coverage({"a": "Conv"}, kernels, MATH_TYPES).missing == missing
