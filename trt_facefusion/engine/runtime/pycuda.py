"""Runs TensorRT engines on the GPU: page-locked buffers, one stream per slot, several slots in flight.

**Threads.** One owner thread per runner retains the device's primary context (the one that torch uses too), makes
everything, completes the futures and frees everything: pycuda releases a primary context, and frees buffers, only in
the thread that retained it. A client's thread makes that context current for the length of one submission and queues
its own work into a slot that it holds alone, so calls need no lock around the GPU and ``infer`` no change of thread.
TensorRT asks for one execution context per thread in flight: each slot has its own.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from trt_facefusion.engine.runtime.device import cuda_driver, explain_failure, explain_loss, explain_shortage
from trt_facefusion.engine.runtime.engine_file import load_engine
from trt_facefusion.engine.runtime.engine_io import EngineIO, Shape, describe
from trt_facefusion.engine.runtime.graphs import GraphUse, total
from trt_facefusion.engine.runtime.in_flight import Outputs, Owner, keep_order, require_slots
from trt_facefusion.engine.runtime.slots import Slot, SlotPool, StageTimes
from trt_facefusion.errors import BadInputError, DeviceLostError
from trt_facefusion.types import Feeds, TensorSpec


class PycudaRunner:
    """Runs an engine of TensorRT 10 or 11. Any number of threads may call it.

    A runner that is dropped without ``close``, or still open when the interpreter ends, frees what it holds.

    Args:
        engine: the bytes of a serialised engine, or an ``ICudaEngine`` that was loaded for the same device.
        slots: inferences in flight; two keep upload, compute and download busy at once.
        profile: number of the optimisation profile.
        device: number of the GPU.
        library: the module that loads a serialised engine, ``tensorrt`` or ``tensorrt_rtx``.
        host_code: a serialised engine may bring code for the host along (see `load_engine`).
        graphs: replay CUDA graphs where shapes stay and cuda-python is installed (see `graphs`).
        extra: the extra of pyproject.toml that installs ``library``.

    Raises:
        BackendUnavailableError: no pycuda, no TensorRT, no driver or no GPU.
        BadInputError: no such device or profile, or ``slots`` is below 1.
        DeviceError: TensorRT refused the engine.
        DeviceMemoryError: the slots do not fit.
        ModelError: inputs or outputs that cannot be exchanged with numpy.
    """

    def __init__(
        self,
        engine: Any,
        slots: int = 2,
        profile: int = 0,
        device: int = 0,
        library: str = "tensorrt",
        host_code: bool = False,
        graphs: bool = True,
        extra: str = "gpu",
    ) -> None:
        require_slots(slots)

        def load(plan: bytes) -> Any:
            return load_engine(plan, library, host_code, extra)

        self._core = _Core(engine, slots, profile, device, load, graphs)
        self._core.start()
        self._finalizer = weakref.finalize(self, self._core.close)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` takes; the batch axis is called ``N`` where it is dynamic."""
        return self._core.io.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` gives."""
        return self._core.io.outputs

    @property
    def shape_ranges(self) -> dict[str, tuple[Shape, Shape]]:
        """Smallest and largest shape of each input."""
        io = self._core.io
        return {name: (io.smallest[name], io.largest[name]) for name in io.smallest}

    @property
    def memory_bytes(self) -> int:
        """Device memory of all slots: buffers and TensorRT's work space, without the engine's weights."""
        return self._core.memory_bytes

    @property
    def graph_use(self) -> GraphUse:
        """How many CUDA graphs were captured and launched, and why none are used; nothing once it is closed."""
        return self._core.graph_use()

    def infer(self, feeds: Feeds) -> Outputs:
        """Outputs by name; waits for a free slot, then for the result.

        Raises:
            BadInputError: ``feeds`` are not what the engine takes; nothing is converted.
            DeviceError: this inference failed; after DeviceLostError all further ones will.
            RuntimeError: the runner is closed, or was opened in another process.
        """
        return self._core.infer(feeds, timed=False)[0]

    def infer_timed(self, feeds: Feeds) -> tuple[Outputs, StageTimes]:
        """Like ``infer``, with the GPU's times for upload, compute and download."""
        outputs, times = self._core.infer(feeds, timed=True)
        assert times is not None
        return outputs, times

    def layer_times(self, feeds: Feeds) -> list[tuple[str, float]]:
        """Name and milliseconds of every layer of one inference, in the order of execution.

        The slot that it ran in stays slower: open a runner of one slot for this alone.

        Raises:
            BadInputError: as ``infer``.
            DeviceError: as ``infer``, or TensorRT has no times for the layers.
        """
        return self._core.layer_times(feeds)

    def infer_async(self, feeds: Feeds) -> Future[Outputs]:
        """Start an inference. ``feeds`` are copied before this returns; waits only while all slots are in flight.

        Futures complete in the order of their submission, in the owner thread: a callback must not wait for another
        inference. What is in flight cannot be cancelled.

        Raises:
            BadInputError: as ``infer``; a DeviceError comes out of the future.
            RuntimeError: the runner is closed.
        """
        return self._core.infer_async(feeds)

    def map(self, batches: Iterable[Feeds]) -> Iterator[Outputs]:
        """Outputs in the order of ``batches``, with as many in flight as there are slots."""
        return keep_order(self.infer_async, self._core.slots, batches)

    def close(self) -> None:
        """Let what is in flight finish, then free everything; closing twice does nothing."""
        self._finalizer()

    def __enter__(self) -> PycudaRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Core:
    """All that a runner holds. The owner thread refers to this, not to the runner, which can thus be dropped."""

    io: EngineIO  # known once the owner has loaded the engine

    def __init__(
        self, engine: Any, slots: int, profile: int, device: int, load: Callable[[bytes], Any], graphs: bool
    ) -> None:
        self.slots = slots
        self.memory_bytes = 0
        self._engine = engine
        self._profile = profile
        self._device = device
        self._load = load
        self._graphs = graphs
        self._all: tuple[Slot, ...] = ()
        self._driver = cuda_driver()
        self._context: Any = None
        self._pool = SlotPool()
        self._lost = False
        self._process = Owner()
        # What infer_async submitted, in order; None is the end.
        self._in_flight: queue.SimpleQueue[tuple[Slot, Future[Outputs]] | None] = queue.SimpleQueue()
        self._owner = threading.Thread(target=self._own, name="trt-ff-owner", daemon=True)
        self._started: Future[None] = Future()

    # -- calls of clients

    def start(self) -> None:
        self._owner.start()
        self._started.result()

    def infer(self, feeds: Feeds, timed: bool) -> tuple[Outputs, StageTimes | None]:
        self.io.check(feeds)
        slot = self._take()
        try:
            with self._at_work(slot):
                slot.submit(feeds, timed)
                return slot.collect(), slot.stage_times() if timed else None
        finally:
            self._pool.give(slot)

    def layer_times(self, feeds: Feeds) -> list[tuple[str, float]]:
        self.io.check(feeds)
        slot = self._take()
        try:
            with self._at_work(slot):
                return slot.layer_times(feeds)
        finally:
            self._pool.give(slot)

    def infer_async(self, feeds: Feeds) -> Future[Outputs]:
        self.io.check(feeds)
        slot = self._take()
        future: Future[Outputs] = Future()
        future.set_running_or_notify_cancel()
        try:
            with self._at_work(slot):
                slot.submit(feeds)
        except BaseException as error:
            self._pool.give(slot)
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return future
        self._in_flight.put((slot, future))
        return future

    def graph_use(self) -> GraphUse:
        return total(slot.graph_use for slot in self._all)

    def close(self) -> None:
        if not self._process.is_here:
            return
        self._pool.shut(lambda: RuntimeError("the runner is closed"), lambda: self._in_flight.put(None))
        if threading.current_thread() is not self._owner:
            self._owner.join()

    def _take(self) -> Slot:
        self._process.require()
        return self._pool.take(may_wait=threading.current_thread() is not self._owner)

    @contextmanager
    def _at_work(self, slot: Slot) -> Iterator[None]:
        """The CUDA context is current; after an error (Ctrl-C too) the slot is at rest and the error one of ours."""
        try:
            self._context.push()
        except self._driver.Error as error:
            raise self._broken(error) from error
        try:
            yield
        except BaseException as error:
            failure = self._settled(slot, error)
            if failure is error:
                raise
            raise failure from error
        finally:
            self._context.pop()

    def _settled(self, slot: Slot, error: BaseException) -> BaseException:
        """Wait until the slot is at rest after ``error``; gives the error to tell."""
        try:
            slot.settle()
        except self._driver.Error as again:
            return self._broken(again)
        return explain_failure("running the engine", error) if isinstance(error, self._driver.Error) else error

    def _broken(self, error: Exception) -> DeviceLostError:
        """From now on everyone gets this error, even if the driver answered again: its results cannot be trusted."""
        loss = explain_loss(error)
        self._lost = True
        self._pool.refuse(lambda: DeviceLostError(loss.message, loss.remedy))
        return loss

    # -- the owner thread

    def _own(self) -> None:
        slots: list[Slot] = []
        try:
            self._open(slots)
        except Exception as error:
            self._free(slots)
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        while (call := self._in_flight.get()) is not None:
            self._complete(*call)
            del call  # it would keep the slot's last future, and its outputs, until the next one
        self._free(slots)

    def _open(self, slots: list[Slot]) -> None:
        driver = self._driver
        if not 0 <= self._device < driver.Device.count():
            raise BadInputError(f"There is no GPU {self._device}.", f"Take one below {driver.Device.count()}.")
        try:
            self._context = driver.Device(self._device).retain_primary_context()
            self._context.push()
            if isinstance(self._engine, bytes):
                self._engine = self._load(self._engine)
            self.io = describe(self._engine, self._profile)
            for _ in range(self.slots):
                slots.append(Slot(driver, self.io, self._graphs))
                slots[-1].allocate(self._engine, self._profile)
        except driver.MemoryError as error:
            raise explain_shortage("a CUDA context and its streams", None, driver) from error
        except driver.Error as error:
            raise explain_failure("making the engine's buffers", error) from error
        self.memory_bytes = sum(slot.memory_bytes + self._engine.device_memory_size_v2 for slot in slots)
        self._all = tuple(slots)
        self._pool.fill(slots)

    def _complete(self, slot: Slot, future: Future[Outputs]) -> None:
        outputs: Outputs = {}
        failure: BaseException | None = None
        try:
            outputs = slot.collect()
        except Exception as error:
            failure = self._settled(slot, error)
            failure.__cause__ = error if failure is not error else None
        self._pool.give(slot)  # before the future's callbacks run
        if failure is None:
            future.set_result(outputs)
        else:
            future.set_exception(failure)

    def _free(self, slots: list[Slot]) -> None:
        """Free in the reverse order of making; a broken context is left first, for it refuses every call."""
        if self._context is None:
            return
        if self._lost:
            self._context.detach()
        try:
            for slot in reversed(slots):
                slot.free(self._lost)
            slots.clear()
            self._engine = None
        finally:
            if not self._lost:  # pycuda aborts the process when a thread ends without this
                self._context.detach()
