"""The emulated driver shows the mistakes that it is there to show."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuda_emulator.driver import COUNTERS, ILLEGAL_ADDRESS, UNKNOWN, EmulatedDriver

N = 1 << 10


@pytest.fixture
def cuda(emulated_cuda: EmulatedDriver) -> Iterator[Any]:
    """pycuda's driver module, with the primary context current."""
    from pycuda import driver

    context = driver.Device(0).retain_primary_context()
    context.push()
    yield driver
    driver.Context.pop()
    context.detach()


def filled(cuda: Any, value: float) -> Any:
    array = cuda.pagelocked_empty(N, np.float32)
    array[:] = value
    return array


def test_a_download_shows_nothing_before_its_stream_is_waited_for(cuda: Any) -> None:
    stream, other = cuda.Stream(), cuda.Stream()
    source, target, device = filled(cuda, 7), filled(cuda, 0), cuda.mem_alloc(4 * N)
    cuda.memcpy_htod_async(device, source, stream)
    cuda.memcpy_dtoh_async(target, device, stream)
    other.synchronize()
    assert (target != 7).all()
    stream.synchronize()
    assert (target == 7).all()


def test_an_upload_takes_what_is_in_the_buffer_when_it_runs(cuda: Any) -> None:
    stream, source, device = cuda.Stream(), filled(cuda, 1), cuda.mem_alloc(4 * N)
    cuda.memcpy_htod_async(device, source, stream)
    source[:] = 2
    stream.synchronize()
    assert (cuda.from_device(device, N, np.float32) == 2).all()


@pytest.mark.parametrize("waits", [True, False])
def test_streams_are_ordered_only_by_events(cuda: Any, waits: bool) -> None:
    first, second, event = cuda.Stream(1), cuda.Stream(1), cuda.Event()
    source, target, device = filled(cuda, 7), filled(cuda, 0), cuda.mem_alloc(4 * N)
    cuda.memcpy_htod_async(device, source, first)
    event.record(first)
    if waits:
        second.wait_for_event(event)
    cuda.memcpy_dtoh_async(target, device, second)
    second.synchronize()
    assert (target == 7).all() == waits
    first.synchronize()


def test_asking_an_event_makes_its_work_run(cuda: Any) -> None:
    stream, event, source, device = cuda.Stream(), cuda.Event(), filled(cuda, 3), cuda.mem_alloc(4 * N)
    cuda.memcpy_htod_async(device, source, stream)
    event.record(stream)
    while not event.query():
        pass
    assert (cuda.from_device(device, N, np.float32) == 3).all()


def test_the_default_stream_waits_for_blocking_streams_only(cuda: Any) -> None:
    for flags, ordered in ((0, True), (1, False)):
        stream, source, device = cuda.Stream(flags), filled(cuda, 7), cuda.mem_alloc(4 * N)
        cuda.memcpy_htod_async(device, source, stream)
        assert (cuda.from_device(device, N, np.float32) == 7).all() == ordered
        stream.synchronize()


def test_pageable_memory_is_counted(cuda: Any, emulated_cuda: EmulatedDriver) -> None:
    stream, source, device = cuda.Stream(), filled(cuda, 1), cuda.mem_alloc(4 * N)
    cuda.memcpy_htod_async(device, source, stream)
    assert emulated_cuda["async_pageable"] == 0
    cuda.memcpy_htod_async(device, np.ones(N, np.float32), stream)
    assert emulated_cuda["async_pageable"] == 1
    stream.synchronize()


def test_ranges_are_checked_also_after_a_free(cuda: Any) -> None:
    device = cuda.mem_alloc(100)
    cuda.memcpy_htod(int(device) + 50, np.zeros(50, np.uint8))
    for pointer, size in ((int(device), 101), (int(device) + 50, 51)):
        with pytest.raises(cuda.LogicError):
            cuda.memcpy_htod(pointer, np.zeros(size, np.uint8))
    pointer = int(device)
    device.free()
    with pytest.raises(cuda.LogicError):
        cuda.memcpy_htod(pointer, np.zeros(10, np.uint8))


def test_device_memory_is_limited_and_comes_back(cuda: Any) -> None:
    free, total = cuda.mem_get_info()
    with pytest.raises(cuda.MemoryError):
        cuda.mem_alloc(total + 1)
    device = cuda.mem_alloc(1 << 20)
    assert cuda.mem_get_info()[0] == free - (1 << 20)
    device.free()
    assert cuda.mem_get_info()[0] == free


def test_a_thread_without_a_context_is_refused(cuda: Any) -> None:
    told: list[str] = []

    def allocate() -> None:
        try:
            cuda.mem_alloc(4)
        except cuda.Error as error:
            told.append(str(error))

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert "invalid device context" in told[0]


def test_a_host_function_runs_in_the_order_of_its_stream(cuda: Any) -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    driver.cuemu_backing.restype = ctypes.c_void_p
    stream, source, target, device = cuda.Stream(), filled(cuda, 3), filled(cuda, 0), cuda.mem_alloc(4 * N)
    memory = driver.cuemu_backing(ctypes.c_uint64(int(device)), ctypes.c_size_t(4 * N))
    values = np.ctypeslib.as_array((ctypes.c_float * N).from_address(memory))

    def double(_: int) -> None:
        np.multiply(values, 2, out=values)

    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(double)
    cuda.memcpy_htod_async(device, source, stream)
    assert driver.cuLaunchHostFunc(ctypes.c_void_p(stream.handle), kernel, None) == 0
    cuda.memcpy_dtoh_async(target, device, stream)
    stream.synchronize()
    assert (target == 6).all()


def test_a_buffer_freed_under_queued_work_is_counted(cuda: Any, emulated_cuda: EmulatedDriver) -> None:
    stream, device, source = cuda.Stream(), cuda.mem_alloc(4 * N), filled(cuda, 1)
    cuda.memcpy_htod_async(device, source, stream)
    stream.synchronize()
    device.free()
    assert emulated_cuda["early_free"] == 0
    script = """
import numpy as np
from pycuda import driver
context = driver.Device(0).retain_primary_context()
context.push()
stream, device, source = driver.Stream(), driver.mem_alloc(64), driver.pagelocked_empty(64, np.uint8)
driver.memcpy_htod_async(device, source, stream)
device.free()
print(emulator["early_free"])
stream.synchronize()
context.detach()
"""
    assert emulated_cuda.run(script).stdout == "1\n"


def test_what_dies_with_its_context_counts_as_leaked(emulated_cuda: EmulatedDriver) -> None:
    script = """
from pycuda import driver
context = driver.Device(0).retain_primary_context()
context.push()
kept = driver.mem_alloc(64), driver.Stream(), driver.Event(), driver.pagelocked_empty(64, "u1")
context.detach()
print(*emulator.held().values())
"""
    assert emulated_cuda.run(script).stdout == "1 1 1 1 0 0\n"


@pytest.mark.parametrize("point", ["h2d", "d2h", "sync"])
def test_an_injected_fault_comes_once_and_in_its_turn(cuda: Any, emulated_cuda: EmulatedDriver, point: str) -> None:
    stream, source, target, device = cuda.Stream(), filled(cuda, 7), filled(cuda, 0), cuda.mem_alloc(4 * N)
    failed = []
    emulated_cuda.inject(point, UNKNOWN, after=1)
    for turn in range(4):
        try:
            cuda.memcpy_htod_async(device, source, stream)
            cuda.memcpy_dtoh_async(target, device, stream)
            stream.synchronize()
            assert (target == 7).all()
        except cuda.Error:
            failed.append(turn)
    stream.synchronize()
    assert failed == [1]


def test_a_context_that_met_an_error_stays_broken_until_it_is_gone(cuda: Any, emulated_cuda: EmulatedDriver) -> None:
    stream, source, device = cuda.Stream(), filled(cuda, 7), cuda.mem_alloc(4 * N)
    emulated_cuda.inject("stream", ILLEGAL_ADDRESS)
    cuda.memcpy_htod_async(device, source, stream)
    for call in (stream.synchronize, cuda.mem_get_info, cuda.Stream, cuda.Context.synchronize):
        with pytest.raises(cuda.Error, match="illegal memory access"):
            call()
    emulated_cuda.repair_context()


def test_what_is_not_emulated_says_so(cuda: Any) -> None:
    with pytest.raises(cuda.Error, match="not supported"):
        cuda.module_from_buffer(b"\0" * 64)


def test_every_counter_has_a_value(emulated_cuda: EmulatedDriver) -> None:
    assert all(emulated_cuda[name] >= 0 for name in COUNTERS)
    with pytest.raises(KeyError):
        emulated_cuda["no such counter"]


# -- graphs


def handle(pointer: int = 0) -> Any:
    return ctypes.c_void_p(pointer)


def captured(stream: Any, queue: Any, mode: int = 1) -> tuple[int, Any]:
    """What ending the capture gave, and the graph made ready; mode 0 is global, 1 thread local, 2 relaxed."""
    driver, graph, ready = ctypes.CDLL("libcuda.so.1"), handle(), handle()
    assert driver.cuStreamBeginCapture_v2(handle(stream.handle), mode) == 0
    queue()
    result = driver.cuStreamEndCapture(handle(stream.handle), ctypes.byref(graph))
    if result == 0:
        assert driver.cuGraphInstantiateWithFlags(ctypes.byref(ready), graph, ctypes.c_uint64(0)) == 0
        assert driver.cuGraphDestroy(graph) == 0
    return result, ready


def test_captured_work_runs_at_every_launch_and_not_before(cuda: Any, emulated_cuda: EmulatedDriver) -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    stream, source, target, device = cuda.Stream(), filled(cuda, 1), filled(cuda, 0), cuda.mem_alloc(4 * N)

    def queue() -> None:
        cuda.memcpy_htod_async(device, source, stream)
        cuda.memcpy_dtoh_async(target, device, stream)

    _, graph = captured(stream, queue)
    stream.synchronize()
    assert (target == 0).all()
    for value in (2, 3):
        source[:] = value
        assert driver.cuGraphLaunch(graph, handle(stream.handle)) == 0
        assert not (target == value).any()
        stream.synchronize()
        assert (target == value).all()
    assert emulated_cuda["graph_launches"] == 2
    assert driver.cuGraphExecDestroy(graph) == 0


def test_a_graph_that_outlives_its_buffer_faults(emulated_cuda: EmulatedDriver) -> None:
    script = """
import sys
from test_emulated_driver import captured, ctypes, filled, handle
from pycuda import driver as cuda
context = cuda.Device(0).retain_primary_context()
context.push()
stream, source, device = cuda.Stream(), filled(cuda, 1), cuda.mem_alloc(4096)
_, graph = captured(stream, lambda: cuda.memcpy_htod_async(device, source, stream))
device.free()
print(ctypes.CDLL("libcuda.so.1").cuGraphLaunch(graph, handle(stream.handle)))
try:
    stream.synchronize()
except cuda.Error as error:
    print(error)
"""
    place = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    assert "0\n" in (told := emulated_cuda.run(place + script).stdout) and "illegal memory access" in told


@pytest.mark.parametrize(
    ("call", "mode", "elsewhere", "result"),
    [
        (lambda cuda, stream: stream.synchronize(), 2, False, 901),
        (lambda cuda, stream: cuda.mem_alloc(4), 1, False, 901),
        (lambda cuda, stream: cuda.mem_alloc(4), 2, False, 0),
        (lambda cuda, stream: cuda.mem_alloc(4), 1, True, 0),
        (lambda cuda, stream: cuda.mem_alloc(4), 0, True, 901),
        (lambda cuda, stream: cuda.pagelocked_empty(4, np.uint8), 1, False, 901),
        (lambda cuda, stream: cuda.Context.synchronize(), 1, False, 901),
    ],
)
def test_what_a_capture_forbids_breaks_it(cuda: Any, call: Any, mode: int, elsewhere: bool, result: int) -> None:
    stream = cuda.Stream()
    context = cuda.Context.get_current()
    kept: list[Any] = []

    def queue() -> None:
        try:
            if elsewhere:
                context.push()
            kept.append(call(cuda, stream))
        except cuda.Error:
            pass
        finally:
            if elsewhere:
                context.pop()

    def from_another_thread() -> None:
        thread = threading.Thread(target=queue)
        thread.start()
        thread.join()

    found, graph = captured(stream, from_another_thread if elsewhere else queue, mode)
    assert found == result
    if graph:
        ctypes.CDLL("libcuda.so.1").cuGraphExecDestroy(graph)
    for made in kept:  # pycuda frees nothing in a thread that did not make the context
        if hasattr(made, "free"):
            made.free()


def test_an_event_of_a_capture_cannot_be_waited_for(cuda: Any) -> None:
    stream, event = cuda.Stream(), cuda.Event()
    _, graph = captured(stream, lambda: event.record(stream))
    with pytest.raises(cuda.Error):
        event.synchronize()
    event.record(stream)
    event.synchronize()
    ctypes.CDLL("libcuda.so.1").cuGraphExecDestroy(graph)
