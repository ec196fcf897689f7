from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.timing.factors import AT_THE_ROOF, Factors
from trt_facefusion.engine.timing.fit import MeasuredKernel, apply_factors, compute_deviation, fit, pair_measured
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.engine.timing.roofline import EnginePrediction, predict_engine, predict_kernel
from trt_facefusion.errors import BadInputError

A10G = get_gpu("a10g")
SHARE = st.floats(0.25, 1.2)


def make_engine(seed: int, count: int = 60) -> EnginePrediction:
    """Convolutions of many sizes in FP16 and INT8, and kernels that only move."""
    rng = np.random.default_rng(seed)
    kernels = []
    for number in range(count):
        channels, size = int(2 ** rng.integers(3, 10)), int(2 ** rng.integers(3, 8))
        dtype = str(rng.choice(["fp16", "int8"]))
        picture = TensorFormat("x", dtype, (1, channels, size, size))
        weights = (TensorFormat("w", dtype, (channels, channels, 3, 3)),)
        kind, held = ("correlation", weights) if number % 3 else ("kgen", ())
        kernels.append(Kernel(f"k{number}", kind, (), (picture,), held, (picture,)))
    return predict_engine(kernels, A10G)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), memory=SHARE, fp16=SHARE, int8=SHARE, launch=SHARE)
def test_known_factors_are_recovered(seed: int, memory: float, fp16: float, int8: float, launch: float) -> None:
    engine, true = make_engine(seed), Factors(memory, {"fp16": fp16, "int8": int8}, launch)
    fitted = fit([MeasuredKernel(kernel, apply_factors(kernel, true)) for kernel in engine.kernels])
    assert fitted.memory == pytest.approx(memory, rel=0.02)
    assert fitted.launch == pytest.approx(launch, rel=0.02)
    assert fitted.of_rate("fp16") == pytest.approx(fp16, rel=0.02)
    assert fitted.of_rate("int8") == pytest.approx(int8, rel=0.02)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), memory=SHARE, arithmetic=SHARE, launch=SHARE)
def test_noise_and_kernels_that_are_far_off_hardly_bend_them(
    seed: int, memory: float, arithmetic: float, launch: float
) -> None:
    rng = np.random.default_rng(seed)
    engine = make_engine(seed, 120)
    true = Factors(memory, {"fp16": arithmetic, "int8": arithmetic}, launch)
    times = [apply_factors(kernel, true) * rng.normal(1, 0.05) for kernel in engine.kernels]
    times[::12] = [5 * time for time in times[::12]]
    measured = [MeasuredKernel(*pair) for pair in zip(engine.kernels, times, strict=True)]
    fitted = fit(measured)
    assert fitted.memory == pytest.approx(memory, rel=0.2)
    assert fitted.launch == pytest.approx(launch, rel=0.2)
    assert compute_deviation(measured, fitted)[0] < 0.1


def test_a_type_that_no_kernel_multiplies_in_keeps_one() -> None:
    engine = make_engine(1)
    fitted = fit([MeasuredKernel(kernel, 2 * kernel.time_ms) for kernel in engine.kernels])
    assert fitted.of_rate("fp32") == 1.0 and "fp32" not in fitted.arithmetic
    assert fitted.memory == pytest.approx(0.5, rel=0.02)


def test_the_deviation_is_told_before_and_after() -> None:
    measured = [MeasuredKernel(kernel, 2 * kernel.time_ms) for kernel in make_engine(2).kernels]
    assert compute_deviation(measured, AT_THE_ROOF) == pytest.approx((0.5, 0.5))
    assert compute_deviation(measured, fit(measured)) == pytest.approx((0.0, 1.0), abs=1e-3)


def test_applied_factors_are_the_prediction_with_these_factors() -> None:
    factors = Factors(0.7, {"fp16": 0.4, "int8": 0.6}, 0.9)
    for kernel in make_engine(3).kernels:
        assert apply_factors(kernel, factors) == pytest.approx(predict_kernel(kernel.kernel, A10G, 1, factors).time_ms)


def test_kernels_are_paired_by_name() -> None:
    engine = make_engine(4, 10)
    pairs = pair_measured(engine, {"k1": 0.5, "k3": 0.25, "k5": 0.0, "elsewhere": 1.0})
    assert [(pair.predicted.kernel.name, pair.measured_ms) for pair in pairs] == [("k1", 0.5), ("k3", 0.25)]
    with pytest.raises(BadInputError, match="only 2 kernels"):
        fit(pairs)
