"""One protocol, several runners: what holds for all."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from twin import runtime as trt
from twin.swap import Face, engine, face, is_swap_of, net, swap

from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.openvino import OpenVino
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.runtime.openvino import OpenVinoRunner
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.errors import BadInputError

KINDS = ["pycuda", "onnxruntime", "openvino"]


def open_swap(kind: str, request: pytest.FixtureRequest, slots: int = 2) -> Runner:
    if kind == "pycuda":
        request.getfixturevalue("emulated_cuda")
        return PycudaRunner(engine(), slots=slots)
    if kind == "openvino":
        return OpenVinoRunner(export(swap(), {n: v.shape[1:] for n, v in face(0).items()}), threads=1, slots=slots)
    return OnnxRuntimeRunner(swap(), threads=1, slots=slots)


def export(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> bytes:
    """An engine of OpenVINO for batches up to 4."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    ranges = {name: ((1, *shape), (2, *shape), (4, *shape)) for name, shape in shapes.items()}
    return OpenVino().build(BuildRequest(model.SerializeToString(), ranges, "cpu")).data


@pytest.fixture(params=KINDS)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with open_swap(request.param, request) as made:
        yield made


def test_futures_complete_in_their_order(runner: Runner) -> None:
    order: list[int] = []
    futures = []
    for value in range(12):
        future = runner.infer_async(face(value, 1 + value % 4))
        future.add_done_callback(lambda _, value=value: order.append(value))  # type: ignore[misc]
        futures.append(future)
    assert all(is_swap_of(value, future.result(10), 1 + value % 4) for value, future in enumerate(futures))
    runner.close()
    assert order == list(range(12))


def test_what_was_given_may_be_overwritten(runner: Runner) -> None:
    feeds = face(0)
    futures = []
    for value in range(6):
        feeds["target"][:] = value
        futures.append(runner.infer_async(feeds))
    feeds["target"][:] = 99
    assert all(is_swap_of(value, future.result(10)) for value, future in enumerate(futures))


def test_map_reads_ahead_by_the_slots_only_and_gives_what_came_before_a_bad_batch(runner: Runner) -> None:
    read: list[int] = []

    def batches() -> Iterator[dict[str, Face]]:
        for value in range(7):
            read.append(value)
            yield face(value)
        yield {}

    results = runner.map(batches())
    for value in range(7):
        assert is_swap_of(value, next(results))
        assert len(read) <= value + 3
    with pytest.raises(BadInputError):
        next(results)


def test_wrong_feeds_are_refused_at_once(runner: Runner) -> None:
    for call in (runner.infer, runner.infer_async):
        with pytest.raises(BadInputError, match="source"):
            call({"target": face(0)["target"]})
    assert is_swap_of(1, runner.infer(face(1)))


def test_closing_lets_what_is_in_flight_finish_and_refuses_more(runner: Runner) -> None:
    futures = [runner.infer_async(face(value)) for value in range(2)]
    runner.close()
    runner.close()
    assert all(is_swap_of(value, future.result(0)) for value, future in enumerate(futures))
    for call in (runner.infer, runner.infer_async):
        with pytest.raises(RuntimeError, match="closed"):
            call(face(1))


def test_a_callback_may_submit_but_not_wait_for_a_slot(runner: Runner) -> None:
    chained: list[Future[dict[str, Face]]] = []
    told: list[str] = []
    called = threading.Event()
    here = threading.current_thread()

    def submit(_: object) -> None:
        if called.is_set() or threading.current_thread() is here:  # it was done before it got its callback
            return
        try:
            for value in range(2, 6):
                chained.append(runner.infer_async(face(value)))
        except RuntimeError as error:
            told.append(str(error))
        called.set()

    for _ in range(1000):
        runner.infer_async(face(1)).add_done_callback(submit)
        if called.wait(0.01):
            break
    assert called.wait(10)
    assert chained and all(is_swap_of(value + 2, future.result(10)) for value, future in enumerate(chained))
    assert "callback" in told[0]


@pytest.mark.parametrize(("elem_type", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.INT8, np.int8)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_of_fp16_or_int8_is_fed_and_read_in_it(
    request: pytest.FixtureRequest, kind: str, elem_type: int, dtype: Any
) -> None:
    shape: list[int | str] = ["batch", 3, 4, 4]
    model = net([helper.make_node("Identity", ["x"], ["y"])], {"x": (elem_type, shape)}, {"y": (elem_type, shape)})
    made: Runner
    if kind == "pycuda":
        request.getfixturevalue("emulated_cuda")
        plan = trt.make_plan(model, trt.__version__, {"x": [[n, 3, 4, 4] for n in (1, 2, 4)]})
        made = PycudaRunner(trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan), slots=1)
    elif kind == "openvino":
        made = OpenVinoRunner(export(model, {"x": (3, 4, 4)}), slots=1)
    else:
        made = OnnxRuntimeRunner(model)
    rng = np.random.default_rng(0)
    with made as runner:
        assert runner.inputs[0].dtype == runner.outputs[0].dtype == np.dtype(dtype).name
        for batch in (1, 4, 4, 4, 4, 2):
            value = (rng.standard_normal((batch, 3, 4, 4)) * 30).astype(dtype)
            found = runner.infer({"x": value})["y"]
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, value)
        with pytest.raises(BadInputError, match="float32"):
            runner.infer({"x": np.zeros((1, 3, 4, 4), np.float32)})


def test_what_is_in_flight_cannot_be_cancelled_and_keeps_no_slot(runner: Runner) -> None:
    futures = [runner.infer_async(face(value)) for value in range(2)]
    assert not any(future.cancel() for future in futures)
    more = [runner.infer_async(face(value)) for value in range(2, 6)]  # none of them waits for ever
    assert all(is_swap_of(value, future.result(10)) for value, future in enumerate(futures + more))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [0, -1])
def test_no_slots_are_refused(slots: int, kind: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(BadInputError, match="slots cannot run anything"):
        open_swap(kind, request, slots)


@pytest.mark.parametrize("kind", ["pycuda", "openvino"])
def test_a_batch_that_the_engine_was_not_built_for_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    with open_swap(kind, request) as made:
        for call in (made.infer, made.infer_async):
            with pytest.raises(BadInputError, match="outside of what the engine was built for"):
                call(face(1, 5))
        assert is_swap_of(1, made.infer(face(1, 4)), 4)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_refused_in_place_of_waiting_for_ever(runner: Runner) -> None:
    runner.infer_async(face(0)).result(10)
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (runner.infer, runner.infer_async):
            try:
                call(face(1))
            except RuntimeError as error:
                refused += "another process" in str(error)
        runner.close()  # nothing of the parent's is touched, and nothing waits
        os._exit(refused)
    deadline = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(done[1]) == 2
    assert is_swap_of(2, runner.infer_async(face(2)).result(10))


@pytest.mark.parametrize("kind", KINDS)
def test_a_runner_that_is_dropped_leaves_no_thread(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "pycuda":
        request.getfixturevalue("emulated_cuda")
    before = threading.active_count()
    for value in range(4):
        made = open_swap(kind, request)
        assert is_swap_of(value, made.infer_async(face(value)).result(10))
        del made
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x.astype(">f4"), "byte order"),
        (lambda x: x.byteswap().view(x.dtype.newbyteorder()), "byte order"),
        (np.ma.masked_array, "MaskedArray"),
        (lambda x: x.tolist(), "list"),
        (lambda x: x.astype(np.float64), "float64"),
    ],
    ids=["big-endian", "swapped", "masked", "list", "float64"],
)
def test_what_is_no_plain_array_of_this_machine_is_refused(runner: Runner, change: Any, told: str) -> None:
    feeds = face(3)
    feeds["target"] = change(feeds["target"])
    for call in (runner.infer, runner.infer_async):
        with pytest.raises(BadInputError, match=told):
            call(feeds)
