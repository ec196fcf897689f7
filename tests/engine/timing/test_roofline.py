from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rtx_kernels import CONVOLUTIONS, KERNELS

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.timing.factors import Factors
from trt_facefusion.engine.timing.gpus import get_gpu, list_gpus
from trt_facefusion.engine.timing.roofline import BOUNDS, predict_engine, predict_kernel, share

A10G = get_gpu("a10g")
FACTOR = st.floats(0.1, 4)


def convolution(channels: int, size: int, dtype: str = "fp16") -> Kernel:
    picture = TensorFormat("x", dtype, (1, channels, size, size))
    weights = TensorFormat("w", dtype, (channels, channels, 3, 3))
    return Kernel("c", "correlation", ("c",), (picture,), (weights,), (picture,))


def test_a_kernel_takes_its_launch_and_the_longer_of_moving_and_multiplying() -> None:
    wide = predict_kernel(convolution(1024, 32), A10G)
    macs = 1024 * 1024 * 9 * 32 * 32
    assert wide.work.macs == macs and wide.bound == "arithmetic"
    assert wide.time_ms == pytest.approx(0.002 + 1e3 * 2 * macs / 70e12)
    moving = predict_kernel(convolution(16, 512), A10G)
    moved = 2 * (2 * 16 * 512 * 512 + 16 * 16 * 9)
    assert moving.bound == "memory"
    assert moving.time_ms == pytest.approx(0.002 + 1e3 * moved / 600e9)
    tiny = predict_kernel(convolution(4, 4), A10G)
    assert tiny.bound == "launch" and tiny.time_ms == pytest.approx(0.002, rel=0.01)


def test_int8_halves_arithmetic_and_memory() -> None:
    half, eighth = (predict_kernel(convolution(256, 64, dtype), A10G) for dtype in ("fp16", "int8"))
    assert eighth.arithmetic_ms == pytest.approx(half.arithmetic_ms / 2)
    assert eighth.memory_ms == pytest.approx(half.memory_ms / 2)


def test_sums_by_bound_and_by_kind_make_the_total() -> None:
    engine = predict_engine([*KERNELS.values(), *CONVOLUTIONS.values()], A10G)
    assert list(engine.sum_by_bound()) == list(BOUNDS)
    for times in (engine.sum_by_bound(), engine.sum_by_kind()):
        assert sum(times.values()) == pytest.approx(engine.total_ms)
        assert sum(share(times).values()) == pytest.approx(1)
    assert engine.list_costliest(1)[0].time_ms == max(kernel.time_ms for kernel in engine.kernels)
    assert engine.launches == len(engine.kernels) - 5  # two signals, two waits and a call on the host


@given(memory=FACTOR, arithmetic=FACTOR, launch=FACTOR, batch=st.integers(1, 8))
def test_factors_divide_what_each_takes(memory: float, arithmetic: float, launch: float, batch: int) -> None:
    factors = Factors(memory, {"int8": arithmetic, "fp16": arithmetic}, launch)
    for kernel in KERNELS.values():
        roof, fitted = predict_kernel(kernel, A10G, batch), predict_kernel(kernel, A10G, batch, factors)
        assert fitted.memory_ms == pytest.approx(roof.memory_ms / memory)
        assert fitted.launch_ms == pytest.approx(roof.launch_ms / launch)
        scale = factors.of_rate(roof.work.arithmetic)
        assert fitted.arithmetic_ms == pytest.approx(roof.arithmetic_ms / scale)


def test_no_gpu_is_faster_than_its_bandwidth_and_its_rates_allow() -> None:
    kernel = convolution(512, 64)
    for gpu in list_gpus().values():
        predicted = predict_kernel(kernel, gpu)
        assert predicted.time_ms >= max(predicted.memory_ms, predicted.arithmetic_ms) + predicted.launch_ms - 1e-12
        assert predicted.bound in BOUNDS
