"""TensorRT's times of layers, on the emulated driver: the profiler of TensorRT reports when it is asked."""

from __future__ import annotations

import pytest
from cuda_emulator.driver import EmulatedDriver
from test_pycuda_runner import engine, face, is_swap_of

from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.engine.runtime.slots import Slot
from trt_facefusion.errors import BadInputError, DeviceError


def test_every_layer_has_a_time_in_the_order_of_execution(emulated_cuda: EmulatedDriver) -> None:
    with PycudaRunner(engine(), slots=1) as runner:
        for _ in range(2):
            times = runner.layer_times(face(1))
            assert [name for name, _ in times] == ["doubled", "swapped", "mean"]
            assert all(ms > 0 for _, ms in times)
            assert times[0][1] < times[1][1] < times[2][1]
        assert is_swap_of(2, runner.infer(face(2)))


def test_times_are_asked_for_when_the_inference_is_over(
    emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the wait TensorRT has nothing to report, and that is told."""
    with PycudaRunner(engine(), slots=1) as runner:
        with monkeypatch.context() as patch:
            patch.setattr(Slot, "collect", lambda self: {})
            with pytest.raises(DeviceError, match="no times"):
                runner.layer_times(face(1))
        assert runner.layer_times(face(1))


def test_wrong_feeds_are_refused_and_nothing_is_left(emulated_cuda: EmulatedDriver) -> None:
    held = emulated_cuda.held()
    with PycudaRunner(engine(), slots=1) as runner:
        with pytest.raises(BadInputError):
            runner.layer_times(face(0, 5))
        runner.layer_times(face(1))
    assert emulated_cuda.held() == held
