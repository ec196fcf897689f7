"""The pycuda runner on this GPU: order, threads, memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_engines import engine
from twin.nets import batches

from trt_facefusion.engine.runtime.engine_file import load_engine
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.errors import BadInputError, DeviceError, DeviceMemoryError
from trt_facefusion.types import Array, Feeds, Precision

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

ROUNDS, THREADS = 200, 8


@pytest.fixture
def runner() -> Iterator[PycudaRunner]:
    with PycudaRunner(engine(Precision.FP16).data, slots=4) as made:
        yield made


def faces(count: int) -> list[Feeds]:
    """Batches of 1 to 4, each unlike all others."""
    return [
        {name: (values[:1] * (1 + number / count)).repeat(1 + number % 4, 0) for name, values in batches(1)[0].items()}
        for number in range(count)
    ]


def test_results_come_in_order_whatever_is_in_flight(runner: PycudaRunner) -> None:
    given = faces(ROUNDS)
    alone = [runner.infer(feeds)["picture"] for feeds in given]
    for found, wanted in zip(runner.map(given), alone, strict=True):
        np.testing.assert_array_equal(found["picture"], wanted)
    futures = [runner.infer_async(feeds) for feeds in given]
    for future, wanted in zip(futures, alone, strict=True):
        np.testing.assert_array_equal(future.result()["picture"], wanted)


def test_every_thread_gets_its_own_faces(runner: PycudaRunner) -> None:
    given = faces(THREADS)
    alone = [runner.infer(feeds)["picture"] for feeds in given]
    wrong: list[int] = []

    def client(number: int) -> None:
        for _ in range(ROUNDS // THREADS):
            if not np.array_equal(runner.infer(given[number])["picture"], alone[number]):
                wrong.append(number)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_gpus_times_are_told(runner: PycudaRunner) -> None:
    outputs, times = runner.infer_timed(faces(1)[0])
    assert outputs["picture"].shape[0] == 1
    assert min(times.upload_ms, times.compute_ms, times.download_ms) >= 0


def test_what_the_engine_was_not_built_for_is_refused(runner: PycudaRunner) -> None:
    with pytest.raises(BadInputError):
        runner.infer({name: values.repeat(5, 0) for name, values in faces(1)[0].items()})
    assert runner.infer(faces(1)[0])["picture"].shape[0] == 1


def test_a_full_gpu_is_told_and_works_again_afterwards() -> None:
    from pycuda import driver

    context = driver.Device(0).retain_primary_context()
    context.push()
    held: list[Any] = []
    try:
        loaded = load_engine(engine(Precision.FP16).data)
        _fill(driver, held)
        with pytest.raises(DeviceMemoryError) as told:
            PycudaRunner(loaded, slots=64)
        assert "slots" in told.value.remedy
        for buffer in held:
            buffer.free()
        held.clear()
        with PycudaRunner(loaded, slots=2) as runner:
            assert runner.infer(faces(1)[0])["picture"].shape[0] == 1
        del loaded
    finally:
        held.clear()
        context.pop()
        context.detach()


def _fill(driver: Any, held: list[Any]) -> None:
    """Take all memory, down to the last piece of 64 KiB."""
    size = 1 << 30
    while size >= 1 << 16:
        try:
            held.append(driver.mem_alloc(size))
        except driver.MemoryError:
            size //= 2


def test_a_damaged_engine_is_refused() -> None:
    data = engine(Precision.FP16).data
    with pytest.raises(DeviceError) as told:
        PycudaRunner(data[: len(data) // 2])
    assert "build it again" in told.value.remedy


def test_a_runner_leaves_no_memory_behind() -> None:
    def free() -> int:
        from trt_facefusion.doctor.driver import ask_driver

        return ask_driver().gpus[0].free_bytes or 0

    def use() -> Array:
        with PycudaRunner(engine(Precision.FP16).data, slots=2) as runner:
            return runner.infer(faces(1)[0])["picture"]

    use()  # what the library keeps for good is taken by the first use
    before = free()
    for _ in range(5):
        use()
    assert before - free() < 8 << 20
