"""A slot is all that one inference in flight needs; a pool hands slots out."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_facefusion.engine.runtime.device import explain_shortage
from trt_facefusion.engine.runtime.engine_io import EngineIO, Shape
from trt_facefusion.engine.runtime.graphs import GraphUse, SlotGraph
from trt_facefusion.engine.runtime.layer_times import LayerTimes
from trt_facefusion.errors import DeviceError, ModelError
from trt_facefusion.types import Array, Feeds, TensorSpec

# CU_STREAM_NON_BLOCKING, for which pycuda has no name: no waiting for the default stream, which is torch's.
_NON_BLOCKING = 1


@dataclass(frozen=True)
class StageTimes:
    """How long the GPU took for each stage of one inference, by events in its stream."""

    upload_ms: float
    compute_ms: float
    download_ms: float


class Slot:
    """Page-locked and device buffers for the largest shapes, a stream, events and an execution context.

    One thread at a time; every method but ``free`` needs the CUDA context to be current. ``allocate`` and ``free`` must
    be called by the thread that retained the context (pycuda frees nothing in another thread).
    """

    def __init__(self, driver: Any, io: EngineIO, graphs: bool = True) -> None:
        self._driver = driver
        self._io = io
        self._host: dict[str, Array] = {}
        self._device: dict[str, Any] = {}
        self._shapes: dict[str, Shape] = {}
        self._context: Any = None
        self._stream: Any = None
        self._done: Any = None
        self._stages: list[Any] = []
        self._wants_graph = graphs
        self._graph: SlotGraph | None = None
        self._layers: LayerTimes | None = None

    def allocate(self, engine: Any, profile: int) -> None:
        """Make all that the slot holds.

        Raises:
            DeviceMemoryError: the device or page-locked memory is full.
            ModelError: the shape of an output is not known before the engine runs.
        """
        driver, flags = self._driver, self._driver.event_flags
        self._context = engine.create_execution_context()
        if self._context is None:  # TensorRT logs why; with a sound engine it is memory
            raise explain_shortage("TensorRT's execution context", engine.device_memory_size_v2, driver)
        self._stream = driver.Stream(_NON_BLOCKING)
        self._graph = SlotGraph(self._stream.handle, self._wants_graph)
        # Without BLOCKING_SYNC a waiting thread would keep a CPU core busy.
        self._done = driver.Event(flags.DISABLE_TIMING | flags.BLOCKING_SYNC)
        self._stages = [driver.Event() for _ in range(4)]
        if not self._context.set_optimization_profile_async(profile, self._stream.handle):
            raise DeviceError(f"TensorRT refused the optimisation profile {profile}.", "Build the engine again.")
        self._stream.synchronize()
        self._set_shapes(self._io.largest)
        for spec in (*self._io.inputs, *self._io.outputs):
            self._allocate_tensor(spec)

    def _allocate_tensor(self, spec: TensorSpec) -> None:
        shape = self._shapes[spec.name]
        if min(shape, default=0) < 0:
            raise ModelError(
                f"The shape of the output {spec.name!r} is {list(shape)}: it depends on the data.",
                "Export the model with outputs whose shapes follow from the inputs' shapes.",
            )
        size_bytes = max(1, _nbytes(shape, spec.dtype))
        try:
            self._host[spec.name] = self._driver.pagelocked_empty(size_bytes, np.uint8)
            self._device[spec.name] = self._driver.mem_alloc(size_bytes)
        except self._driver.MemoryError as error:
            raise explain_shortage(f"the buffers of {spec.name!r}", size_bytes, self._driver) from error
        if not self._context.set_tensor_address(spec.name, int(self._device[spec.name])):
            raise DeviceError(f"TensorRT refused the buffer of {spec.name!r}.", "Build the engine again.")

    @property
    def memory_bytes(self) -> int:
        """Bytes of device memory in buffers (as many are page-locked on the host)."""
        return sum(host.nbytes for host in self._host.values())

    @property
    def graph_use(self) -> GraphUse:
        """What became of CUDA graphs in this slot."""
        return self._graph.use if self._graph is not None else GraphUse()

    def submit(self, feeds: Feeds, timed: bool = False) -> None:
        """Queue upload, compute and download. ``feeds`` are copied before this returns; ``settle`` after any error.

        A timed inference does not go through the CUDA graph, in which the stages cannot be told apart.

        Raises:
            DeviceError: TensorRT refused.
            pycuda.driver.Error: the driver did.
        """
        self._set_shapes({name: tensor.shape for name, tensor in feeds.items()})
        for spec in self._io.inputs:
            np.copyto(self._view(spec), feeds[spec.name])
        if timed or self._graph is None:
            self._queue(timed)
        else:
            self._graph.run(self._queue)
        self._done.record(self._stream)

    def _queue(self, timed: bool = False) -> None:
        self._mark(0, timed)
        for spec in self._io.inputs:
            self._driver.memcpy_htod_async(self._device[spec.name], self._view(spec), self._stream)
        self._mark(1, timed)
        if not self._context.execute_async_v3(self._stream.handle):
            raise DeviceError(
                "TensorRT refused to run the engine; its log says why.", "Build the engine again on this machine."
            )
        self._mark(2, timed)
        for spec in self._io.outputs:
            self._driver.memcpy_dtoh_async(self._view(spec), self._device[spec.name], self._stream)
        self._mark(3, timed)

    def collect(self) -> dict[str, Array]:
        """Wait for what was submitted; the outputs are copies that the caller may keep."""
        self._done.synchronize()
        return {spec.name: self._view(spec).copy() for spec in self._io.outputs}

    def stage_times(self) -> StageTimes:
        """Times of the last inference, which must have been submitted with ``timed`` and collected."""
        start, uploaded, computed, downloaded = self._stages
        return StageTimes(start.time_till(uploaded), uploaded.time_till(computed), computed.time_till(downloaded))

    def layer_times(self, feeds: Feeds) -> list[tuple[str, float]]:
        """Name and milliseconds of every layer of one inference; the slot is slower from then on.

        Raises:
            DeviceError: TensorRT refused, or has no times.
            pycuda.driver.Error: the driver did.
        """
        if self._layers is None:
            self._layers = LayerTimes(self._context)
        self.submit(feeds, timed=True)
        self.collect()
        return self._layers.read(self._context)

    def settle(self) -> None:
        """Wait until nothing uses the buffers any more. Raises pycuda.driver.Error when the context is broken."""
        self._stream.synchronize()

    def free(self, context_is_lost: bool = False) -> None:
        """Give everything back; calling it again does nothing. Nothing may be in flight."""
        if self._graph is not None:
            self._graph.abandon() if context_is_lost else self._graph.forget()
            self._graph = None
        self._context = None  # before the buffers whose addresses it knows, and what it reports to
        self._layers = None
        self._stages, self._done, self._stream = [], None, None
        while self._device:
            buffer = self._device.popitem()[1]
            if not context_is_lost:
                buffer.free()
        while self._host:
            allocation: Any = self._host.popitem()[1].base
            if not context_is_lost:
                allocation.free()

    def _set_shapes(self, inputs: dict[str, Shape]) -> None:
        if all(self._shapes.get(name) == shape for name, shape in inputs.items()):
            return
        self._shapes = {}
        if self._graph is not None:
            self._graph.forget()
        for name, shape in inputs.items():
            if not self._context.set_input_shape(name, shape):
                raise DeviceError(f"TensorRT refused the shape {list(shape)} of {name!r}.", "Build the engine again.")
        outputs = {spec.name: tuple(self._context.get_tensor_shape(spec.name)) for spec in self._io.outputs}
        for spec in self._io.outputs:
            if spec.name in self._host and _nbytes(outputs[spec.name], spec.dtype) > self._host[spec.name].nbytes:
                raise ModelError(
                    f"The output {spec.name!r} is larger for this input than for the largest one.",
                    "Run inputs of one size, or build an engine for each size.",
                )
        self._shapes = {**inputs, **outputs}

    def _view(self, spec: TensorSpec) -> Array:
        """The page-locked buffer, as an array of the shape that is set."""
        shape = self._shapes[spec.name]
        return self._host[spec.name][: _nbytes(shape, spec.dtype)].view(spec.dtype).reshape(shape)

    def _mark(self, stage: int, timed: bool) -> None:
        if timed:
            self._stages[stage].record(self._stream)


def _nbytes(shape: Shape, dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


class SlotPool:
    """Hands each slot to one taker at a time, the longest rested first; safe for any number of threads."""

    def __init__(self) -> None:
        self._free: deque[Slot] = deque()
        self._all: tuple[Slot, ...] = ()
        self._changed = threading.Condition()
        self._refusal: Callable[[], Exception] | None = None
        self._when_idle: Callable[[], None] | None = None

    def fill(self, slots: list[Slot]) -> None:
        """Open the pool with these slots."""
        self._all = tuple(slots)
        self._free.extend(slots)

    def take(self, may_wait: bool = True) -> Slot:
        """A slot for the caller alone; waits for one.

        Raises:
            Exception: what ``refuse`` was told to raise.
            RuntimeError: none is free and the caller may not wait.
        """
        with self._changed:
            while self._refusal is None and not self._free:
                if not may_wait:
                    raise RuntimeError("all slots are in flight: a callback of a future must not wait for another one")
                self._changed.wait()
            if self._refusal is not None:
                raise self._refusal()
            return self._free.popleft()

    def give(self, slot: Slot) -> None:
        """Hand a slot back; nothing of it may be in flight."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify()
            self._tell_when_idle()

    def refuse(self, error: Callable[[], Exception]) -> None:
        """Let every taker from now on, also those who wait, get this error."""
        with self._changed:
            self._refusal = error
            self._changed.notify_all()

    def shut(self, error: Callable[[], Exception], when_idle: Callable[[], None]) -> None:
        """Refuse takers, and call ``when_idle`` once as soon as all slots are back."""
        self.refuse(error)
        with self._changed:
            self._when_idle = when_idle
            self._tell_when_idle()

    def _tell_when_idle(self) -> None:
        if self._when_idle is not None and len(self._free) == len(self._all):
            tell, self._when_idle = self._when_idle, None
            tell()
