from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_emulator.driver import UNKNOWN

from trt_facefusion.engine.backends.device import Device, ask_device, limit_workspace
from trt_facefusion.engine.backends.uploader import BatchFeed, PycudaUploader
from trt_facefusion.errors import BadInputError, BuildError


class FakeCuda(ModuleType):
    """`pycuda.driver` over host memory; a copy happens only when its stream or a later event is waited for."""

    Error = type("Error", (Exception,), {})
    MemoryError = type("MemoryError", (Error,), {})
    event_flags = SimpleNamespace(DISABLE_TIMING=2)

    def __init__(self, limit_bytes: int = 1 << 20) -> None:
        super().__init__("pycuda.driver")
        self.memory: dict[int, np.ndarray] = {}
        self.queue: list[Callable[[], None]] = []
        self.limit_bytes = limit_bytes
        self.depth = self.holders = self.generation = 0
        outer = self

        class Stream:
            def __init__(self) -> None:
                self.generation = outer.generation

            def synchronize(self) -> None:
                assert self.generation == outer.generation, "invalid resource handle"
                outer.drain(len(outer.queue))

        class Event:
            def __init__(self, flags: int) -> None:
                self.mark = 0

            def record(self, stream: Stream) -> None:
                self.mark = len(outer.queue)

            def synchronize(self) -> None:
                outer.drain(self.mark)

        class Context:
            def push(self) -> None:
                outer.depth += 1

            def pop(self) -> None:
                outer.depth -= 1

            def detach(self) -> None:
                outer.holders -= 1
                if not outer.holders:  # the driver destroys it and all that was made in it
                    outer.generation += 1

        class CudaDevice:
            def __init__(self, number: int) -> None: ...

            def retain_primary_context(self) -> Context:
                outer.holders += 1
                return Context()

            def name(self) -> str:
                return "NVIDIA A10G"

            def compute_capability(self) -> tuple[int, int]:
                return (8, 6)

        class Allocation:
            def __init__(self, size: int) -> None:
                self.address = 4096 * (len(outer.memory) + 1)
                outer.memory[self.address] = np.full(size, 0xEE, np.uint8)

            def __int__(self) -> int:
                return self.address

            def free(self) -> None:
                del outer.memory[self.address]

        self.Stream, self.Event, self.Device, self._allocation = Stream, Event, CudaDevice, Allocation

    def init(self) -> None: ...

    def get_driver_version(self) -> int:
        return 13000

    def mem_get_info(self) -> tuple[int, int]:
        return 1000, 4000

    def drain(self, count: int) -> None:
        for index in range(count):
            self.queue[index]()
            self.queue[index] = lambda: None

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def mem_alloc(self, size: int) -> Any:
        assert self.depth, "no context is current"
        if sum(array.nbytes for array in self.memory.values()) + size > self.limit_bytes:
            raise self.MemoryError("out of memory")
        return self._allocation(size)

    def memcpy_htod_async(self, device: Any, host: np.ndarray, stream: Any) -> None:
        assert self.depth, "no context is current"
        self.queue.append(lambda: self.memory[int(device)].__setitem__(slice(None), host.view(np.uint8).ravel()))

    def read(self, address: int) -> np.ndarray:
        return self.memory[address].view(np.float32)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    package = ModuleType("pycuda")
    package.driver = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    return fake


def feeds(count: int, last: int = 2) -> list[dict[str, np.ndarray]]:
    sizes = [2] * (count - 1) + [last]
    return [
        {"image": np.full((n, 3), 10 * i, np.float32), "style": np.full((n, 2), 10 * i + 1, np.float32)}
        for i, n in enumerate(sizes)
    ]


def test_every_batch_is_whole_in_device_memory_when_its_address_is_given(cuda: FakeCuda) -> None:
    feed = BatchFeed(feeds(5), PycudaUploader())
    for index, addresses in enumerate(feed):
        assert set(cuda.read(addresses["image"])) == {10 * index}
        assert set(cuda.read(addresses["style"])) == {10 * index + 1}
    assert index == 4
    assert len(cuda.memory) == 4  # two slots of two inputs
    feed.close()
    assert not cuda.memory
    assert cuda.depth == cuda.holders == 0
    feed.close()  # twice does no harm


def test_the_next_batch_is_under_way_while_one_is_used_and_does_not_touch_it(cuda: FakeCuda) -> None:
    feed = BatchFeed(feeds(3), PycudaUploader())
    first = next(feed)
    assert len(cuda.queue) == 4  # the second batch is queued already
    cuda.drain(len(cuda.queue))
    assert set(cuda.read(first["image"])) == {0}
    second = next(feed)
    assert second["image"] != first["image"]


def test_a_short_batch_is_filled_up(cuda: FakeCuda) -> None:
    feed = BatchFeed(feeds(2, last=1), PycudaUploader())
    next(feed)
    assert list(cuda.read(next(feed)["image"])) == [10] * 6
    assert next(feed, None) is None


def test_no_batch_at_all(cuda: FakeCuda) -> None:
    with pytest.raises(BadInputError, match="not one batch"):
        BatchFeed([], PycudaUploader())


def test_a_gpu_without_memory_says_what_to_do_and_keeps_nothing(cuda: FakeCuda) -> None:
    cuda.limit_bytes = 30
    with pytest.raises(BuildError, match="calibration batch of 'style'") as error:
        BatchFeed(feeds(1), PycudaUploader())
    assert "smaller batch" in error.value.remedy
    assert not cuda.memory


def test_the_device_is_read_through_pycuda(cuda: FakeCuda) -> None:
    assert ask_device() == Device("NVIDIA A10G", (8, 6), 13000, 1000, 4000)
    assert limit_workspace(None, ask_device()) == 250
    assert limit_workspace(7, ask_device()) == 7


def test_no_driver_is_no_device(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(cuda, "init", fails)
    assert ask_device() is None
    assert limit_workspace(None, None) == 1 << 30


def test_batches_arrive_through_real_pycuda(request: pytest.FixtureRequest) -> None:
    try:
        emulator = request.getfixturevalue("emulated_cuda")
    except pytest.FixtureLookupError:
        pytest.skip("no emulated CUDA driver")
    import pycuda.driver as real

    device = ask_device()
    assert device is not None
    assert device.free_bytes <= device.total_bytes
    feed = BatchFeed(feeds(6, last=1), PycudaUploader())
    for index, addresses in enumerate(feed):
        context = real.Device(0).retain_primary_context()
        context.push()
        found = np.zeros((2, 3), np.float32)
        real.memcpy_dtoh(found, addresses["image"])
        context.pop()
        context.detach()
        assert set(found.ravel()) == {10 * index}
    feed.close()
    assert emulator["async_pageable"] == 0


def test_a_calibration_that_ends_early_waits_for_the_upload_under_way(request: pytest.FixtureRequest) -> None:
    """The fixture fails where a buffer is freed under queued work."""
    emulator = request.getfixturevalue("emulated_cuda")
    feed = BatchFeed(feeds(6), PycudaUploader())
    next(feed)
    queued = emulator["async"] - emulator["executed"]
    feed.close()
    assert queued > 0


def test_a_gpu_that_fails_while_it_uploads_is_told_as_a_failed_build(request: pytest.FixtureRequest) -> None:
    emulator = request.getfixturevalue("emulated_cuda")
    emulator.inject("h2d", UNKNOWN, after=4)
    feed = BatchFeed(feeds(6), PycudaUploader())
    with pytest.raises(BuildError, match="failed while a calibration batch was uploaded"):
        for _ in feed:
            pass
    feed.close()
