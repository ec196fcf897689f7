from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.engine.backends.rtx_log import LogBuffer, parse, parse_kernel
from trt_facefusion.engine.backends.tensorrt_kernels import MATH_TYPES

DATA = Path(__file__).parent / "data"


def messages(name: str) -> list[tuple[str, str]]:
    text = (DATA / name).read_bytes().decode()
    parts = re.split(r"(?m)^\[([A-Z]+)\] ", text)[1:]
    return list(zip(parts[::2], (part.rstrip("\n") for part in parts[1::2]), strict=True))


@pytest.fixture(scope="module")
def convolutions() -> LogBuffer:
    log = LogBuffer()
    for severity, text in messages("rtx_1.7.1_convolutions.txt"):
        log.add(severity, text)
    return log


def test_memory_is_read(convolutions: LogBuffer) -> None:
    facts = convolutions.facts()
    assert (facts.weights_bytes, facts.activations_bytes) == (31488, 8847360)


def test_kernels_have_their_types_and_nodes(convolutions: LogBuffer) -> None:
    facts = convolutions.facts()
    assert facts.kernels_known
    assert [kernel.type for kernel in facts.kernels] == ["kgen", "correlation"] * 3 + ["kgen"]
    stride_two = facts.kernels[3]
    assert stride_two.name == "mid_myl0_3"
    assert stride_two.nodes == ("mid", "relu0_out_q_DequantizeLinear", "mid.w_DequantizeLinear")
    assert stride_two.inputs[0].shape == (1, 32, 64, 64)
    assert stride_two.constants[0].shape == (64, 32, 3, 3)
    assert stride_two.constants[0].layout.startswith("(NHWC)")
    assert stride_two.dtypes == "int8 x int8 -> fp32"
    assert stride_two.tactic


def test_only_kernels_that_multiply_8_bit_factors_count_as_int8(convolutions: LogBuffer) -> None:
    int8 = {kernel.name for kernel in convolutions.facts().kernels if kernel.is_int8_math(MATH_TYPES)}
    assert int8 == {"first_myl0_1", "mid_myl0_3", "one_myl0_5"}


def test_strange_names_joined_kernels_and_kernels_without_tensors_are_read() -> None:
    facts = parse(text for _, text in messages("rtx_1.7.1_kernels.txt"))
    assert facts.kernels_known
    assert len(facts.kernels) == 28
    nodes = {kernel.name: kernel.nodes for kernel in facts.kernels}
    assert nodes["/block.0/conv 1 [a]/Conv_myl0_1"][0] == "/block.0/conv 1 [a]/Conv"
    assert nodes["n}{y_myl0_3"][0] == "n}{y"
    assert {"t1", "t2", "t3"} <= set(nodes["t3+t2+t1_myl0_1"])
    assert {kernel.type for kernel in facts.kernels} >= {"gemm", "deconv", "signal", "wait", "shape_call"}


def test_a_kernel_that_cannot_be_read_makes_all_unknown() -> None:
    facts = parse(["Layers:\nName: a, LayerType: gemm, Something: else\n"])
    assert not facts.kernels_known
    assert facts.kernels == ()


@pytest.mark.parametrize("log", [[], ["Layers:\n"], ["Engine generation completed"], ["Total Weights Memory: many"]])
def test_a_log_without_kernels_says_so(log: list[str]) -> None:
    facts = parse(log)
    assert not facts.kernels_known
    assert facts.weights_bytes is None


@given(st.text())
def test_any_line_is_survived(line: str) -> None:
    parse_kernel(line)
    parse([f"Layers:\n{line}", line])


@given(st.text(st.characters(exclude_characters="\n\r\x1e\x1f", codec="utf-8"), min_size=1, max_size=30))
def test_any_node_name_is_read_back(name: str) -> None:
    line = (
        f"Name: k, LayerType: gemm, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, "
        f"Metadata: [ONNX Layer: before]\x1f[ONNX Layer: {name}]\x1f[ONNX Layer: after]"
    )
    kernel = parse_kernel(line)
    assert kernel is not None
    assert kernel.nodes == ("before", name, "after")


def test_the_buffer_is_bounded_and_keeps_facts_and_errors() -> None:
    log = LogBuffer(limit=10)
    log.add("INFO", "Total Weights Memory: 5 bytes")
    log.add("ERROR", "broken")
    for number in range(100):
        log.add("VERBOSE", f"line {number}")
    log.add("ERROR", "[checkMacros.cpp] Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")
    assert log.facts().weights_bytes == 5
    assert log.errors == ("broken",)
    assert log.tail(3) == ("[VERBOSE] line 97", "[VERBOSE] line 98", "[VERBOSE] line 99")
    assert len(log.tail(1000)) == 10
