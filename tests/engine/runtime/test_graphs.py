"""CUDA graphs, captured from pycuda's stream by the real cuda-python on the emulated driver."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda_emulator.driver import ILLEGAL_ADDRESS, UNKNOWN, EmulatedDriver
from twin import runtime as trt
from twin.swap import engine, face, is_swap_of

from trt_facefusion.engine.runtime.graphs import GraphUse
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.errors import DeviceError, DeviceLostError

PLAIN = 2
"""Calls that run without a graph after the shapes changed."""


@pytest.fixture
def runner(emulated_cuda: EmulatedDriver) -> Iterator[PycudaRunner]:
    with PycudaRunner(engine(), slots=1) as made:
        yield made


def right(runner: PycudaRunner, values: range, batch: int = 1) -> bool:
    return all(is_swap_of(value, runner.infer(face(value, batch)), batch) for value in values)


def test_what_stays_the_same_is_captured_once_and_replayed(runner: PycudaRunner, emulated_cuda: EmulatedDriver) -> None:
    assert right(runner, range(PLAIN))
    assert runner.graph_use == GraphUse()
    assert right(runner, range(10))
    assert runner.graph_use == GraphUse(captured=1, launched=10)
    assert (emulated_cuda["captures"], emulated_cuda["graph_launches"]) == (1, 10)
    assert emulated_cuda["async"] == 4 * (PLAIN + 1)  # a replay is one call of the driver, not four copies
    assert emulated_cuda["async_pageable"] == 0


def test_other_shapes_are_captured_anew(runner: PycudaRunner) -> None:
    for number, batch in enumerate((4, 1, 3, 4)):
        assert right(runner, range(5), batch)
        assert runner.graph_use == GraphUse(captured=number + 1, launched=(number + 1) * (5 - PLAIN))


def test_shapes_that_never_stay_are_never_captured(runner: PycudaRunner) -> None:
    for turn in range(12):
        assert is_swap_of(turn, runner.infer(face(turn, 1 + turn % 4)), 1 + turn % 4)
    assert runner.graph_use == GraphUse()


def test_every_slot_has_its_own(emulated_cuda: EmulatedDriver) -> None:
    with PycudaRunner(engine(), slots=3) as runner:
        for value, outputs in enumerate(runner.map(face(value) for value in range(30))):
            assert is_swap_of(value, outputs)
        assert runner.graph_use == GraphUse(captured=3, launched=30 - 3 * PLAIN)


def test_nobody_gets_the_face_of_another(emulated_cuda: EmulatedDriver) -> None:
    wrong: list[float] = []

    def client(number: int, runner: PycudaRunner) -> None:
        futures = [(value, runner.infer_async(face(value))) for value in range(100 * number, 100 * number + 40)]
        wrong.extend(value for value, future in futures if not is_swap_of(value, future.result(30)))
        wrong.extend(value for value in range(20) if not is_swap_of(value, runner.infer(face(value))))

    with PycudaRunner(engine(), slots=4) as runner:
        threads = [threading.Thread(target=client, args=(number, runner)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert wrong == []
        assert runner.graph_use == GraphUse(captured=4, launched=8 * 60 - 4 * PLAIN)


def test_timed_calls_go_without(runner: PycudaRunner) -> None:
    right(runner, range(5))
    launched = runner.graph_use.launched
    assert is_swap_of(7, runner.infer_timed(face(7))[0])
    assert runner.graph_use.launched == launched
    assert right(runner, range(3))
    assert runner.graph_use == GraphUse(captured=1, launched=launched + 3)


def test_without_cuda_python_everything_runs_and_it_is_noted(
    emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with PycudaRunner(engine(), slots=2) as runner:
        assert right(runner, range(8))
        assert runner.graph_use.captured == 0
        assert "cuda-python cannot be loaded" in (runner.graph_use.off or "")


def test_who_wants_none_gets_none(emulated_cuda: EmulatedDriver) -> None:
    with PycudaRunner(engine(), slots=1, graphs=False) as runner:
        assert right(runner, range(6))
        assert runner.graph_use == GraphUse(off="not asked for")


@pytest.mark.parametrize(
    ("point", "after", "said"),
    [
        ("capture", 0, "cuStreamBeginCapture"),
        ("instantiate", 0, "cuGraphInstantiate"),
        ("graph", 0, "cuGraphLaunch"),
        ("h2d", 2 * PLAIN, "cuMemcpyHtoDAsync"),
        ("d2h", 2 * PLAIN, "cuMemcpyDtoHAsync"),
        ("launch", PLAIN, "TensorRT refused"),
    ],
)
def test_a_capture_that_fails_costs_nothing_but_the_graph(
    runner: PycudaRunner, emulated_cuda: EmulatedDriver, point: str, after: int, said: str
) -> None:
    emulated_cuda.inject(point, UNKNOWN, after)
    assert right(runner, range(PLAIN + 1))
    assert runner.graph_use.launched == 0 and runner.graph_use.off is None
    assert right(runner, range(PLAIN + 4))
    assert runner.graph_use.launched > 0
    emulated_cuda.inject(point, UNKNOWN, 0, times=100)
    if point in {"capture", "instantiate", "graph"}:  # the others would fail plain calls, too
        right(runner, range(5), 2)
        assert right(runner, range(5), 2)
        assert said in (runner.graph_use.off or "")
    emulated_cuda.clear_faults()
    assert right(runner, range(3))


def test_an_engine_that_cannot_be_captured_runs_without(
    runner: PycudaRunner, emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = trt.IExecutionContext.execute_async_v3

    def uncapturable(context: Any, stream_handle: int) -> bool:
        return not trt._is_captured(stream_handle) and execute(context, stream_handle)

    monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", uncapturable)
    assert right(runner, range(12))
    assert "TensorRT refused" in (runner.graph_use.off or "")
    assert emulated_cuda["captures"] == 2  # and no third try


def test_other_threads_do_not_break_a_capture(
    runner: PycudaRunner, emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pycuda import driver

    execute = trt.IExecutionContext.execute_async_v3
    context = driver.Device(0).retain_primary_context()

    def allocate() -> None:
        context.push()
        driver.mem_alloc(64).free()
        driver.Context.pop()

    def beside_another_thread(made: Any, stream_handle: int) -> bool:
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
        return execute(made, stream_handle)

    monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", beside_another_thread)
    assert right(runner, range(6))
    context.detach()
    assert runner.graph_use == GraphUse(captured=1, launched=6 - PLAIN)


def test_a_replay_that_breaks_the_context_is_told(emulated_cuda: EmulatedDriver) -> None:
    emulated_cuda.loses_context = True
    with PycudaRunner(engine(), slots=1) as runner:
        assert right(runner, range(PLAIN + 2))
        emulated_cuda.inject("stream", ILLEGAL_ADDRESS, 2)
        for _ in range(2):
            with pytest.raises(DeviceLostError, match="illegal memory access"):
                runner.infer(face(1))
        emulated_cuda.repair_context()


def test_after_a_replay_that_failed_the_next_request_works(runner: PycudaRunner, emulated_cuda: EmulatedDriver) -> None:
    assert right(runner, range(PLAIN + 2))
    emulated_cuda.inject("sync", UNKNOWN)
    with pytest.raises(DeviceError):
        runner.infer(face(1))
    assert right(runner, range(4))


def test_a_replay_waits_for_its_own_result(emulated_cuda: EmulatedDriver) -> None:
    """Outside of lazy mode, with slow copies: results are not taken before the graph is done."""
    emulated_cuda.configure(lazy=False, latency_us=3000)
    with PycudaRunner(engine(), slots=2) as runner:
        for value, outputs in enumerate(runner.map(face(value) for value in range(12))):
            assert is_swap_of(value, outputs)
        assert runner.graph_use.launched > 0
        assert not np.array_equal(runner.infer(face(1))["swapped"], runner.infer(face(2))["swapped"])


def test_the_interpreter_ends_with_a_graph_in_flight(emulated_cuda: EmulatedDriver) -> None:
    script = """
import atexit
from twin.swap import engine, face
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
runner = PycudaRunner(engine(), slots=2)
futures = [runner.infer_async(face(value)) for value in range(9)]
launched = runner.graph_use.launched
atexit._run_exitfuncs()
print(launched > 0, all(future.done() for future in futures), *emulator.held().values(), emulator["early_free"])
"""
    ended = emulated_cuda.run(script)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "True True 0 0 0 0 0 0 0\n")
    plain = emulated_cuda.run(script.replace("atexit._run_exitfuncs()", "raise SystemExit"))
    assert (plain.returncode, plain.stderr) == (0, "")
