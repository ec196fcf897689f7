from __future__ import annotations

from dataclasses import replace

from rtx_kernels import CONVOLUTIONS

from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.engine.timing.roofline import predict_engine
from trt_facefusion.engine.timing.summary import explain_int8, summarise
from trt_facefusion.types import Precision

A10G = get_gpu("a10g")
INT8 = summarise(predict_engine(CONVOLUTIONS.values(), A10G), fitted=False)


def test_a_summary_counts_the_int8_kernels_that_write_fp32() -> None:
    assert INT8.int8_kernels == 3
    assert INT8.int8_writing_fp32 == ("first_myl0_1", "mid_myl0_3", "one_myl0_5")
    assert INT8.gpu == "a10g" and INT8.total_ms == sum(INT8.by_bound.values())


def test_int8_that_is_no_faster_is_told_with_what_to_build_and_why() -> None:
    fp16 = replace(INT8, total_ms=0.9 * INT8.total_ms, moved_bytes=INT8.moved_bytes // 2, launches=2)
    told = explain_int8({Precision.INT8: INT8, Precision.FP16: fp16}, A10G.title)
    assert told is not None
    for part in ("does not pay on NVIDIA A10G", "predicted", "--fp16", "3 of its 3 INT8 kernels write FP32", "moves"):
        assert part in told


def test_nothing_is_told_where_int8_pays_or_where_nothing_can_be_compared() -> None:
    slower = replace(INT8, total_ms=2 * INT8.total_ms)
    assert explain_int8({Precision.INT8: INT8, Precision.FP16: slower}, "") is None
    assert explain_int8({Precision.INT8: INT8}, "") is None
    assert explain_int8({Precision.INT8: slower, Precision.FP16: replace(INT8, gpu="l4")}, "") is None
