"""Runs engines of OpenVINO on the CPU."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from trt_facefusion.engine.runtime.engine_io import EngineIO, Shape
from trt_facefusion.engine.runtime.in_flight import Outputs, Queue, keep_order, require_slots
from trt_facefusion.errors import BackendUnavailableError, DeviceError, pip_install
from trt_facefusion.types import Feeds, TensorSpec

DEVICE = "CPU"
_BATCH = "N"
_TELEMETRY = "openvino_telemetry"
_PLACE = re.compile(r"^(Exception from \S+:$|Check '.*' failed at \S+:\d+:)")
_SINK = "/sink_port_"
"""What OpenVINO adds to the name of an output."""


class OpenVinoRunner:
    """Runs an engine as `export_model` gave it. Any number of threads may call it.

    Load engines of known origin only: OpenVINO checks its version and the processor's instructions, not the content,
    and compiles to machine code what it reads.

    Args:
        engine: the exported engine.
        threads: CPU threads of one inference; None takes all cores.
        slots: inferences that ``infer_async`` and ``map`` take at once, at least one. They run one after the other,
            each on all threads; feeds and results are copied meanwhile.
        layers: keep the times of layers for `layer_times`, which makes every inference a little slower.

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
        BadInputError: ``slots`` is below 1.
        DeviceError: OpenVINO refused the engine.
    """

    def __init__(self, engine: bytes, threads: int | None = None, slots: int = 2, layers: bool = False) -> None:
        require_slots(slots)
        core = open_core()
        try:
            self._compiled: Any = core.import_model(engine, DEVICE, make_configuration(threads, layers))
            self._io = _describe(self._compiled)
            self._idle = deque(self._compiled.create_infer_request() for _ in range(slots))
            self._own: Any = self._compiled.create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError, and pybind11 others
            raise DeviceError(
                f"OpenVINO refused the engine: {explain(error)}",
                "An engine runs only with the OpenVINO version and the kind of processor that it was built for: build "
                "it again on this machine (`trt-ff build`).",
            ) from error
        self._queue = Queue(slots)
        self._at_work = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` takes; the batch axis is called ``N`` where it is dynamic."""
        return self._io.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` gives."""
        return self._io.outputs

    @property
    def shape_ranges(self) -> Mapping[str, tuple[Shape, Shape]]:
        """Smallest and largest shape of each input."""
        return {name: (self._io.smallest[name], self._io.largest[name]) for name in self._io.smallest}

    def infer(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            BadInputError: ``feeds`` are not what the engine takes; nothing is converted.
            DeviceError: OpenVINO failed inside the engine.
            RuntimeError: the runner is closed, or was opened in another process.
        """
        self._check(feeds)
        with self._at_work:
            return self._run(feeds)

    def layer_times(self, feeds: Feeds) -> list[tuple[str, float]]:
        """Name and milliseconds of every kernel of one inference; only of a runner that was opened with ``layers``.

        Raises:
            BadInputError, DeviceError: as ``infer``.
        """
        self._check(feeds)
        with self._at_work:
            self._run(feeds)
            times = self._own.get_profiling_info()
        return [(t.node_name, 1e3 * t.real_time.total_seconds()) for t in times if t.status.name == "EXECUTED"]

    def infer_async(self, feeds: Feeds) -> Future[Outputs]:
        """Start an inference in OpenVINO's threads; ``feeds`` are copied before this returns.

        Futures complete in the order of their submission. Waits while ``slots`` are in flight.

        Raises:
            BadInputError: as ``infer``; a DeviceError comes out of the future.
            RuntimeError: as ``infer``, or the caller is the callback of a future and would wait for ever.
        """
        self._check(feeds)
        started: list[Any] = []
        copied = {name: np.array(tensor, order="C") for name, tensor in feeds.items()}

        def start() -> None:
            started.append(self._idle.popleft())
            started[0].start_async(copied, share_inputs=True)

        def finish() -> Outputs:
            try:
                _call("running the engine", started[0].wait)
                return self._read(started[0])
            finally:
                self._idle.append(started.pop())
                copied.clear()

        return self._queue.submit(finish, start)

    def map(self, batches: Iterable[Feeds]) -> Iterator[Outputs]:
        """Outputs in the order of ``batches``; ``slots`` batches are read ahead."""
        return keep_order(self.infer_async, self._queue.slots, batches)

    def _check(self, feeds: Feeds) -> None:
        self._queue.owner.require()
        if self._compiled is None:
            raise RuntimeError("the runner is closed")
        self._io.check(feeds)

    def _run(self, feeds: Feeds) -> Outputs:
        if self._compiled is None:  # it was closed while this call waited
            raise RuntimeError("the runner is closed")
        contiguous = {name: np.asarray(tensor, order="C") for name, tensor in feeds.items()}
        _call("running the engine", lambda: self._own.infer(contiguous, share_inputs=True))
        return self._read(self._own)

    def _read(self, request: Any) -> Outputs:
        tensors = (request.get_output_tensor(index).data for index in range(len(self._io.outputs)))
        return {spec.name: np.array(tensor) for spec, tensor in zip(self._io.outputs, tensors, strict=True)}

    def close(self) -> None:
        """Let what is in flight finish, then free the engine; closing twice does nothing."""
        self._queue.close()
        if not self._queue.owner.is_here:  # OpenVINO's threads are not in this process
            return
        with self._at_work:
            self._idle.clear()
            self._compiled = self._own = None

    def __enter__(self) -> OpenVinoRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def import_openvino() -> ModuleType:
    """The module ``openvino``, which reports to nobody. Raises BackendUnavailableError when it cannot be loaded."""
    try:
        with _without_telemetry():
            return importlib.import_module("openvino")
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            f"OpenVINO cannot be loaded: {error}", f"Install it with `{pip_install('openvino')}`."
        ) from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """As if `openvino_telemetry` were not installed: with it, importing OpenVINO alone sends an event to its maker."""
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop(_TELEMETRY, None)


@cache
def open_core() -> Any:
    """The one ``openvino.Core`` of this process, which lives as long as it does.

    Its plugin for the CPU gives the thread another stack for signals, and puts the former one back when it ends. Of two
    that end in the order in which they came, that is one that is freed, and the next Ctrl-C would end the process.

    Raises:
        BackendUnavailableError: OpenVINO cannot be loaded.
    """
    return import_openvino().Core()


def make_configuration(threads: int | None = None, layers: bool = False) -> dict[str, Any]:
    """OpenVINO's options. Everything that is not INT8 is computed in FP32, also where a CPU has narrower types.

    Threads are not tied to cores: two processes of one machine would be tied to the same ones.
    """
    configuration: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": layers,
    }
    return configuration if threads is None else {**configuration, "INFERENCE_NUM_THREADS": threads}


def explain(error: BaseException) -> str:
    """What OpenVINO says, on one line and without the places in its source."""
    lines = (_PLACE.sub("", line).strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line)


def _call(what: str, call: Any) -> None:
    try:
        call()
    except Exception as error:
        raise DeviceError(
            f"OpenVINO failed while {what}: {explain(error)}",
            "Check the values that it is fed, or run its typed.onnx with onnxruntime.",
        ) from error


def _describe(compiled: Any) -> EngineIO:
    inputs = [(port.get_node().get_friendly_name(), port) for port in compiled.inputs]
    outputs = [(port.get_node().get_friendly_name().rpartition(_SINK)[0], port) for port in compiled.outputs]
    bounds = {name: port.get_partial_shape() for name, port in inputs}
    return EngineIO(
        inputs=tuple(_read_spec(name, port) for name, port in inputs),
        outputs=tuple(_read_spec(name, port) for name, port in outputs),
        smallest={name: tuple(axis.min_length for axis in shape) for name, shape in bounds.items()},
        largest={name: tuple(axis.max_length for axis in shape) for name, shape in bounds.items()},
    )


def _read_spec(name: str, port: Any) -> TensorSpec:
    shape = tuple(
        axis.min_length if axis.is_static else _BATCH if index == 0 else f"{name}_{index}"
        for index, axis in enumerate(port.get_partial_shape())
    )
    dtype: np.dtype[Any] = np.dtype(port.get_element_type().to_dtype())
    return TensorSpec(name, shape, dtype.name)
