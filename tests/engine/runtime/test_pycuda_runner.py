"""The pycuda runner, on the emulated driver: queued work runs only when something waits for it."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import onnx
import pytest
from cuda_emulator.driver import ILLEGAL_ADDRESS, OUT_OF_MEMORY, UNKNOWN, EmulatedDriver
from onnx import TensorProto, helper
from twin import runtime as trt
from twin.swap import SIDE, Face, engine, face, is_swap_of, net, plan, swap

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.engine.runtime.slots import Slot
from trt_facefusion.errors import (
    BackendUnavailableError,
    BadInputError,
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    ModelError,
)

DATA = Path(__file__).resolve().parents[3] / "trt_facefusion" / "data"


@pytest.fixture
def runner(emulated_cuda: EmulatedDriver) -> Iterator[PycudaRunner]:
    with PycudaRunner(engine(), slots=2) as made:
        yield made


# -- results


def test_a_real_network_gives_what_onnxruntime_gives(emulated_cuda: EmulatedDriver) -> None:
    path = DATA / "face_detection_yunet_2023mar.onnx"
    with OnnxRuntimeRunner(path, threads=1) as reference, PycudaRunner(engine(onnx.load(path)), slots=1) as runner:
        assert {spec.name for spec in runner.outputs} == {spec.name for spec in reference.outputs}
        shape = [size for size in runner.inputs[0].shape if isinstance(size, int)]
        rng = np.random.default_rng(1)
        for _ in range(3):
            feeds = {runner.inputs[0].name: rng.uniform(0, 255, shape).astype(np.float32)}
            outputs, right = runner.infer(feeds), reference.infer(feeds)
            for name, value in right.items():
                np.testing.assert_array_equal(outputs[name], value)


def test_batches_of_every_size_in_the_profile_run(runner: PycudaRunner) -> None:
    assert [str(spec) for spec in runner.inputs] == ["target: float32 [N, 3, 16, 16]", "source: float32 [N, 3, 1, 1]"]
    with OnnxRuntimeRunner(swap()) as reference:
        for batch in (4, 1, 3, 2, 4):
            rng = np.random.default_rng(batch)
            feeds: dict[str, Face] = {
                name: np.asarray(rng.standard_normal(value.shape), np.float32) for name, value in face(0, batch).items()
            }
            outputs = runner.infer(feeds)
            for name, value in reference.infer(feeds).items():
                np.testing.assert_array_equal(outputs[name], value)


@pytest.mark.parametrize(
    ("elem_type", "dtype"), [(TensorProto.FLOAT16, "float16"), (TensorProto.INT8, "int8"), (TensorProto.UINT8, "uint8")]
)
def test_inputs_and_outputs_have_the_engines_types(emulated_cuda: EmulatedDriver, elem_type: int, dtype: str) -> None:
    model = net([helper.make_node("Identity", ["x"], ["y"])], {"x": (elem_type, [5])}, {"y": (elem_type, [5])})
    with PycudaRunner(engine(model)) as runner:
        value = np.array([0, 1, 2, 100, 127], dtype)
        output = runner.infer({"x": value})["y"]
        assert output.dtype == value.dtype
        np.testing.assert_array_equal(output, value)


def test_inputs_of_any_memory_layout_run(runner: PycudaRunner) -> None:
    values = np.arange(3 * SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE, 3)
    feeds = {**face(0), "target": values.transpose(0, 3, 1, 2)}
    np.testing.assert_array_equal(runner.infer(feeds)["swapped"], feeds["target"] * 2 + np.float32(0.5))


def test_a_serialised_engine_is_loaded(emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    with PycudaRunner(plan(), slots=1) as runner:
        assert is_swap_of(1, runner.infer(face(1)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: whole.replace(b"10.16.1.11", b"10.9.0.34"), "10.9.0.34"),
        (lambda whole: b"x" + whole, "magic tag"),
        (lambda whole: whole[:-100], "deserializeCudaEngine"),
    ],
)
def test_an_engine_that_tensorrt_refuses_is_told_in_its_words(
    emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], said: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    with pytest.raises(DeviceError, match=said) as error:
        PycudaRunner(damage(plan()))
    assert "build it again" in error.value.remedy


def test_a_tensorrt_that_does_not_suit_the_driver_is_told(
    emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRuntime:
        def __init__(self, logger: trt.ILogger) -> None:
            logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(trt, "Runtime", NoRuntime)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    with pytest.raises(DeviceError, match="CUDA initialization failure"):
        PycudaRunner(b"any")


def test_a_machine_without_tensorrt_is_told(emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match="tensorrt"):
        PycudaRunner(plan())


# -- memory and order


def test_what_was_given_may_be_overwritten_and_what_was_got_kept(runner: PycudaRunner) -> None:
    feeds = face(1)
    future = runner.infer_async(feeds)
    feeds["target"][:] = 99
    first = future.result()
    for value in range(5):
        runner.infer(face(value))
    assert is_swap_of(1, first)


def test_every_copy_is_from_or_to_page_locked_memory(runner: PycudaRunner, emulated_cuda: EmulatedDriver) -> None:
    for batch in (1, 4):
        runner.infer(face(1, batch))
    assert emulated_cuda["async"] == 2 * 4
    assert (emulated_cuda["async_pageable"], emulated_cuda["sync"]) == (0, 0)


def test_all_slots_are_in_flight_at_once(emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated_cuda.configure(lazy=False)
    run, gate = trt._Job.run, threading.Event()

    def held_up(job: trt._Job) -> int:
        gate.wait(30)
        return run(job)

    monkeypatch.setattr(trt._Job, "run", held_up)
    with PycudaRunner(engine(), slots=3) as runner:
        busy = emulated_cuda["busy_streams"]
        futures = [runner.infer_async(face(value)) for value in range(3)]
        assert emulated_cuda["busy_streams"] == busy + 3
        gate.set()
        assert all(is_swap_of(value, future.result()) for value, future in enumerate(futures))


def test_map_gives_results_in_order_and_reads_ahead_by_the_slots_only(runner: PycudaRunner) -> None:
    read: list[int] = []

    def batches() -> Iterator[dict[str, Face]]:
        for value in range(7):
            read.append(value)
            yield face(value, 1 + value % 4)

    for value, outputs in enumerate(runner.map(batches())):
        assert is_swap_of(value, outputs, 1 + value % 4)
        assert len(read) <= value + 3
    assert len(read) == 7


def test_map_gives_what_came_before_a_bad_batch(runner: PycudaRunner) -> None:
    results = runner.map([face(0), face(1), face(2), {}])
    assert [is_swap_of(value, next(results)) for value in range(3)] == [True] * 3
    with pytest.raises(BadInputError):
        next(results)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("turns", [125, pytest.param(1250, marks=pytest.mark.slow)])
def test_eight_clients_get_their_own_faces_in_their_own_order(
    emulated_cuda: EmulatedDriver, turns: int, lazy: bool
) -> None:
    """1,000 (10,000) inferences over 4 slots: waiting ones and futures, of all batch sizes."""
    emulated_cuda.configure(lazy=lazy)
    wrong: list[object] = []
    done: list[int] = []

    def client(number: int, runner: PycudaRunner) -> None:
        order: list[int] = []
        futures: list[tuple[int, int, Future[dict[str, Face]]]] = []
        for turn in range(turns):
            value, batch = number * 10_000 + turn, 1 + (turn + number) % 4
            if turn % 3:
                future = runner.infer_async(face(value, batch))
                future.add_done_callback(lambda _, turn=turn: order.append(turn))  # type: ignore[misc]
                futures.append((value, batch, future))
            elif not is_swap_of(value, runner.infer(face(value, batch)), batch):
                wrong.append(value)
            done.append(value)
        wrong.extend(value for value, batch, future in futures if not is_swap_of(value, future.result(30), batch))
        if order != sorted(order) or len(order) != len(futures):
            wrong.append(order)

    with PycudaRunner(engine(), slots=4) as runner:
        held = emulated_cuda.held()
        threads = [threading.Thread(target=client, args=(number, runner)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert wrong == []
        assert len(done) == 8 * turns
        # At most one for each slot, whose last faces had one size; lost contexts of earlier tests may have left some.
        assert emulated_cuda["graphs"] - held["graphs"] <= 4
        assert {**emulated_cuda.held(), "graphs": 0} == {**held, "graphs": 0}


def test_the_gpus_time_is_split_by_stages(emulated_cuda: EmulatedDriver) -> None:
    emulated_cuda.configure(latency_us=5000)
    with PycudaRunner(engine(), slots=1) as runner:
        outputs, times = runner.infer_timed(face(3))
        assert is_swap_of(3, outputs)
        assert times.upload_ms >= 10  # two inputs
        assert times.download_ms >= 10
        assert times.compute_ms >= 0
        assert is_swap_of(4, runner.infer_timed(face(4))[0])


# -- what is refused


@pytest.mark.parametrize(
    ("feeds", "said", "help"),
    [
        (face(0, 5), "outside of what the engine was built for", "[4, 3, 16, 16]"),
        ({**face(0), "source": np.zeros((2, 3, 1, 1), np.float32)}, "N = 1", "N"),
        ({"target": face(0)["target"]}, "'source'", "float32"),
        ({**face(0), "source": np.zeros((1, 3, 1, 1), np.float16)}, "float16", "float32"),
        ({**face(0), "target": np.zeros((1, 3, 8, 8), np.float32)}, "[1, 3, 8, 8]", "[N, 3, 16, 16]"),
    ],
)
def test_wrong_feeds_are_refused_before_anything_runs(
    runner: PycudaRunner, feeds: dict[str, Face], said: str, help: str
) -> None:
    for call in (runner.infer, runner.infer_async, runner.infer_timed):
        with pytest.raises(BadInputError) as error:
            call(feeds)
        assert said in error.value.message
        assert help in error.value.remedy
    assert is_swap_of(1, runner.infer(face(1)))


def test_what_cannot_be_run_is_refused(emulated_cuda: EmulatedDriver) -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    model = net([cast], {"x": (TensorProto.BFLOAT16, [2])}, {"y": (TensorProto.FLOAT, [2])})
    with pytest.raises(ModelError, match="BF16"):
        PycudaRunner(engine(model))
    for arguments in ({"slots": 0}, {"profile": 1}, {"device": 1}):
        with pytest.raises(BadInputError):
            PycudaRunner(engine(), **arguments)


def test_a_machine_without_a_gpu_is_told(emulated_cuda: EmulatedDriver) -> None:
    script = """
import sys
from trt_facefusion.errors import BackendUnavailableError
from trt_facefusion.engine.runtime.device import cuda_driver
sys.modules["pycuda"] = None
try:
    cuda_driver()
except BackendUnavailableError as error:
    print("told")
"""
    assert emulated_cuda.run(script).stdout == "told\n"
    assert BackendUnavailableError.exit_code == 4


# -- failures


def test_slots_that_do_not_fit_leave_nothing_behind(emulated_cuda: EmulatedDriver) -> None:
    emulated_cuda.configure(memory_mb=0.5)
    loaded, held = engine(), emulated_cuda.held()
    with pytest.raises(DeviceMemoryError) as error:
        PycudaRunner(loaded, slots=64)
    assert "MiB" in error.value.message
    assert "fewer slots" in error.value.remedy
    assert emulated_cuda.held() == held
    with PycudaRunner(loaded, slots=2) as runner:
        assert is_swap_of(1, runner.infer(face(1)))


@pytest.mark.parametrize("point", ["alloc", "pinned"])
@pytest.mark.parametrize("after", range(9))
def test_an_allocation_that_fails_anywhere_leaves_nothing_behind(
    emulated_cuda: EmulatedDriver, point: str, after: int
) -> None:
    emulated_cuda.inject(point, OUT_OF_MEMORY, after, times=2)  # pycuda collects garbage and tries again
    try:
        runner = PycudaRunner(engine(), slots=2)
    except DeviceMemoryError:
        return  # the fixture looks for what is left
    runner.close()
    assert after >= 8


CALLS: list[Callable[[PycudaRunner], dict[str, Face]]] = [
    lambda runner: runner.infer(face(1)),
    lambda runner: runner.infer_async(face(1)).result(10),
    lambda runner: next(runner.map([face(1)])),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("point", "after"), [("h2d", 0), ("h2d", 1), ("launch", 0), ("d2h", 0), ("d2h", 1), ("sync", 0)]
)
def test_after_a_call_that_failed_the_next_request_works(
    runner: PycudaRunner,
    emulated_cuda: EmulatedDriver,
    call: Callable[[PycudaRunner], dict[str, Face]],
    point: str,
    after: int,
) -> None:
    emulated_cuda.inject(point, UNKNOWN, after)
    with pytest.raises(DeviceError) as error:
        call(runner)
    assert not isinstance(error.value, DeviceLostError)
    assert error.value.remedy
    assert all(is_swap_of(value, runner.infer(face(value))) for value in range(4))


def test_a_slot_whose_call_failed_is_at_rest_before_it_is_used_again(emulated_cuda: EmulatedDriver) -> None:
    emulated_cuda.configure(lazy=False, latency_us=20_000)
    with PycudaRunner(engine(), slots=1) as runner:
        emulated_cuda.inject("launch", UNKNOWN)
        busy = emulated_cuda["busy_streams"]
        with pytest.raises(DeviceError):
            runner.infer(face(1))
        assert emulated_cuda["busy_streams"] == busy


def test_an_interrupted_client_leaves_its_slot_at_rest(
    emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated_cuda.configure(lazy=False, latency_us=20_000)
    with PycudaRunner(engine(), slots=1) as runner:
        busy = emulated_cuda["busy_streams"]
        with monkeypatch.context() as patch:

            def interrupted(_: Slot) -> None:
                raise KeyboardInterrupt

            patch.setattr(Slot, "collect", interrupted)
            with pytest.raises(KeyboardInterrupt):
                runner.infer(face(1))
        assert emulated_cuda["busy_streams"] == busy
        assert is_swap_of(2, runner.infer(face(2)))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [0, 2, 4])
def test_a_lost_device_fails_what_is_in_flight_and_all_that_comes(
    emulated_cuda: EmulatedDriver,
    capfd: pytest.CaptureFixture[str],
    call: Callable[[PycudaRunner], dict[str, Face]],
    after: int,
) -> None:
    """Work 0 and 1 are uploads, 2 is the network, 3 and 4 are downloads."""
    emulated_cuda.loses_context = True
    with PycudaRunner(engine(), slots=2) as runner:
        emulated_cuda.inject("stream", ILLEGAL_ADDRESS, after)
        for _ in range(2):
            with pytest.raises(DeviceLostError) as error:
                call(runner)
            assert "illegal memory access" in error.value.message
            assert "Start the process again" in error.value.remedy
        emulated_cuda.repair_context()
        with pytest.raises(DeviceLostError):  # what such a context gives is not to be trusted
            call(runner)
    assert capfd.readouterr().err == ""
    with PycudaRunner(engine(), slots=2) as runner:
        assert is_swap_of(1, runner.infer(face(1)))


def test_a_lost_device_is_left_in_silence(emulated_cuda: EmulatedDriver, capfd: pytest.CaptureFixture[str]) -> None:
    """A broken context refuses to free anything: it is left first, and its destruction frees the rest."""
    emulated_cuda.loses_context = True
    with PycudaRunner(engine(), slots=2) as runner:
        emulated_cuda.inject("stream", ILLEGAL_ADDRESS)
        with pytest.raises(DeviceLostError):
            runner.infer(face(1))
    del runner
    assert emulated_cuda.held()["contexts"] == 0
    assert capfd.readouterr().err == ""
    with PycudaRunner(engine(), slots=2) as runner:
        assert is_swap_of(1, runner.infer(face(1)))


@pytest.mark.parametrize("call", CALLS)
def test_a_context_that_another_part_of_the_process_broke_is_told(
    runner: PycudaRunner, emulated_cuda: EmulatedDriver, call: Callable[[PycudaRunner], dict[str, Face]]
) -> None:
    emulated_cuda.loses_context = True
    emulated_cuda.inject("push", ILLEGAL_ADDRESS)
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="illegal memory access"):
            call(runner)


# -- the end


def test_a_closed_runner_refuses_and_may_be_closed_again(runner: PycudaRunner) -> None:
    runner.close()
    runner.close()
    for call in (runner.infer, runner.infer_async):
        with pytest.raises(RuntimeError, match="closed"):
            call(face(1))
    with pytest.raises(RuntimeError, match="closed"):
        next(runner.map([face(1)]))


def test_closing_lets_what_is_in_flight_finish_and_refuses_who_waits(emulated_cuda: EmulatedDriver) -> None:
    emulated_cuda.configure(lazy=False, latency_us=50_000)
    runner = PycudaRunner(engine(), slots=2)
    futures = [runner.infer_async(face(value)) for value in range(2)]
    told: list[Exception] = []

    def wait_for_a_slot() -> None:
        try:
            runner.infer(face(2))
        except RuntimeError as error:
            told.append(error)

    waiting = [threading.Thread(target=wait_for_a_slot, daemon=True) for _ in range(5)]
    for thread in waiting:
        thread.start()
    time.sleep(0.02)
    runner.close()
    for thread in waiting:
        thread.join(10)
    assert all(future.done() and is_swap_of(value, future.result()) for value, future in enumerate(futures))
    assert [str(error) for error in told] == ["the runner is closed"] * 5


def test_closing_waits_for_other_threads_that_are_waiting_for_their_results(emulated_cuda: EmulatedDriver) -> None:
    emulated_cuda.configure(lazy=False, latency_us=50_000)
    runner = PycudaRunner(engine(), slots=2)
    results: list[dict[str, Face]] = []
    busy = emulated_cuda["busy_streams"]
    client = threading.Thread(target=lambda: results.append(runner.infer(face(1))))
    client.start()
    while emulated_cuda["busy_streams"] == busy:
        time.sleep(0.001)
    runner.close()
    client.join(10)
    assert is_swap_of(1, results[0])


def test_a_runner_that_is_dropped_frees_what_it_holds(emulated_cuda: EmulatedDriver) -> None:
    held = emulated_cuda.held()
    runner = PycudaRunner(engine(), slots=2)
    future = runner.infer_async(face(1))
    del runner
    gc.collect()
    assert is_swap_of(1, future.result(10))
    del future
    assert emulated_cuda.held() == held


def test_a_future_keeps_nothing_but_its_own_result(runner: PycudaRunner) -> None:
    """The owner thread must not keep the last result until the next one comes."""
    import weakref

    outputs = runner.infer_async(face(1)).result()
    kept = weakref.ref(outputs["swapped"])
    del outputs
    deadline = time.monotonic() + 5
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert kept() is None


def test_a_callback_may_submit_but_not_wait_for_a_slot(emulated_cuda: EmulatedDriver) -> None:
    chained: list[Future[dict[str, Face]]] = []
    told: list[str] = []
    called = threading.Event()
    here = threading.current_thread()

    def submit_twice(runner: PycudaRunner) -> None:
        if called.is_set() or threading.current_thread() is here:  # it was done before it got its callback
            return
        chained.append(runner.infer_async(face(2)))
        try:
            runner.infer_async(face(3))
        except RuntimeError as error:
            told.append(str(error))
        called.set()

    with PycudaRunner(engine(), slots=1) as runner:
        for _ in range(1000):
            runner.infer_async(face(1)).add_done_callback(lambda _: submit_twice(runner))
            if called.wait(0.01):
                break
        assert called.wait(10)
        assert is_swap_of(2, chained[0].result(10))
        assert "callback" in told[0]


def test_the_interpreter_ends_with_work_in_flight(emulated_cuda: EmulatedDriver) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_pycuda_runner import PycudaRunner, engine, face
import atexit
runner = PycudaRunner(engine(), slots=2)
futures = [runner.infer_async(face(value)) for value in range(2)]
atexit._run_exitfuncs()
print([future.done() for future in futures], *emulator.held().values())
"""
    ended = emulated_cuda.run(script)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "[True, True] 0 0 0 0 0 0\n"
    plain = emulated_cuda.run(script.replace("atexit._run_exitfuncs()", "raise SystemExit"))
    assert (plain.returncode, plain.stderr) == (0, "")


def test_other_users_of_the_primary_context_are_left_alone(emulated_cuda: EmulatedDriver) -> None:
    """What torch does: it keeps the primary context current in its threads, and buffers in it."""
    from pycuda import driver

    other = driver.Device(0).retain_primary_context()
    other.push()
    buffer, target = driver.mem_alloc(64), driver.pagelocked_empty(64, np.uint8)
    driver.memcpy_htod(buffer, np.zeros(64, np.uint8))
    driver.memcpy_dtoh_async(target, buffer)  # in the default stream, where it waits
    with PycudaRunner(engine()) as runner:
        assert is_swap_of(1, runner.infer(face(1)))
        assert driver.Context.get_current() == other
    assert target.any()
    driver.Context.synchronize()
    assert not target.any()
    target.base.free()
    buffer.free()
    driver.Context.pop()
    other.detach()
