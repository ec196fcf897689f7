"""The runtime half of a stand-in for ``tensorrt``: it runs "plans" on the emulated CUDA driver.

A plan is ``TWINPLAN1\\n``, one line of JSON, and an ONNX model::

    TWINPLAN1
    {"version": "10.16.1.11", "profiles": {"image": [[1, 3, 64, 64], [2, 3, 64, 64], [4, 3, 64, 64]]}}
    <the bytes of the ONNX model>

``profiles`` holds the smallest, usual and largest shape of every dynamic input. Execution is queued in the stream
(``cuLaunchHostFunc``) and runs in ONNX Runtime on the memory behind the device pointers, which are looked up only when
the work runs: a buffer that was freed too early breaks the context, as on a GPU. Execution contexts take device memory.
``make_plan`` and ``Runtime.version`` aside, nothing here exists that the real module does not have; what is missing
here is not used. A test installs it with ``monkeypatch.setitem(sys.modules, "tensorrt", twin.runtime)``.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import json
import math
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

MAGIC = b"TWINPLAN1\n"
_ILLEGAL_ADDRESS = 700
_LAUNCH_FAILED = 719


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10
    E8M0 = 11


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW4 = 3


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    def __init__(self, min_severity: ILogger.Severity = ILogger.Severity.WARNING) -> None:
        self.min_severity = min_severity

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        if severity.value <= self.min_severity.value:
            sys.stderr.write(f"[TRT] [{severity.name[0]}] {msg}\n")


class IProfiler:
    def __init__(self) -> None: ...

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


_DTYPES: dict[int, tuple[DataType, np.dtype[Any]]] = {
    onnx.TensorProto.FLOAT: (DataType.FLOAT, np.dtype(np.float32)),
    onnx.TensorProto.FLOAT16: (DataType.HALF, np.dtype(np.float16)),
    onnx.TensorProto.INT8: (DataType.INT8, np.dtype(np.int8)),
    onnx.TensorProto.UINT8: (DataType.UINT8, np.dtype(np.uint8)),
    onnx.TensorProto.INT32: (DataType.INT32, np.dtype(np.int32)),
    onnx.TensorProto.INT64: (DataType.INT64, np.dtype(np.int64)),
    onnx.TensorProto.BOOL: (DataType.BOOL, np.dtype(np.bool_)),
    onnx.TensorProto.BFLOAT16: (DataType.BF16, np.dtype(np.uint16)),
}


def make_plan(model: onnx.ModelProto, version: str, profiles: dict[str, list[list[int]]]) -> bytes:
    header = json.dumps({"version": version, "profiles": profiles})
    return MAGIC + header.encode() + b"\n" + model.SerializeToString()


class Runtime:
    """``version`` is the version of TensorRT that is imitated: plans of another one are refused, as by the real one."""

    version = "10.16.1.11"

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        plan = bytes(serialized_engine)
        try:
            if not plan.startswith(MAGIC):
                raise ValueError("the plan has a wrong magic tag")
            header, model = plan[len(MAGIC) :].split(b"\n", 1)
            described = json.loads(header)
            compatible = described.get("version_compatible", False)
            if compatible and not self.engine_host_code_allowed:
                raise ValueError("the plan holds host code, which is not allowed")
            if not compatible and described["version"] != self.version:
                raise ValueError(f"the plan is of version {described['version']}, this is {self.version}")
            layers = [layer["Name"] for layer in described.get("layers", ())]
            return ICudaEngine(onnx.load_model_from_string(model), described["profiles"], layers)
        except Exception as error:
            self.logger.log(ILogger.Severity.ERROR, f"IRuntime::deserializeCudaEngine: {error}")
            return None


__version__ = Runtime.version


class ICudaEngine:
    num_optimization_profiles = 1

    def __init__(
        self, model: onnx.ModelProto, profiles: dict[str, list[list[int]]], layers: Sequence[str] = ()
    ) -> None:
        self._layers = list(layers) or [node.name or node.output[0] for node in model.graph.node]
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constants]
        self._values = {value.name: value for value in (*inputs, *model.graph.output)}
        self._inputs = [value.name for value in inputs]
        self._profiles = profiles
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._known_shapes: dict[Any, dict[str, tuple[int, ...]]] = {}

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    @property
    def device_memory_size_v2(self) -> int:
        return 1 << 16

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name not in self._values:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _DTYPES[self._values[name].type.tensor_type.elem_type][0]

    def get_tensor_format(self, name: str, profile_index: int = 0) -> TensorFormat:
        return TensorFormat.LINEAR

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        axes = self._values[name].type.tensor_type.shape.dim
        return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._profiles[name]]

    def create_execution_context(self) -> IExecutionContext | None:
        memory = _malloc(self.device_memory_size_v2)
        return IExecutionContext(self, memory) if memory else None

    def _numpy_dtype(self, name: str) -> np.dtype[Any]:
        return _DTYPES[self._values[name].type.tensor_type.elem_type][1]

    def _output_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Found by running zeros of that shape once; -1 for outputs whose shape no input decides."""
        key = tuple(sorted(shapes.items()))
        if key not in self._known_shapes:
            zeros = {name: np.zeros(shape, self._numpy_dtype(name)) for name, shape in shapes.items()}
            outputs = [name for name in self._values if name not in self._inputs]
            values = self._session.run(outputs, zeros)
            self._known_shapes[key] = {name: value.shape for name, value in zip(outputs, values, strict=True)}
        return self._known_shapes[key]


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, memory: int) -> None:
        self.engine = engine
        self._memory = memory
        self._profile = 0
        self._shapes = {n: engine.get_tensor_shape(n) for n in engine._inputs if -1 not in engine.get_tensor_shape(n)}
        self._addresses: dict[str, int] = {}
        self._settled: dict[str, tuple[int, ...]] = {}
        self._in_graphs: list[int] = []
        self._profile_is_set = True
        self._job: _Job | None = None
        self.profiler: IProfiler | None = None
        self.enqueue_emits_profile = True

    def __del__(self) -> None:
        for number in self._in_graphs:
            del _jobs[number]
        _free(self._memory)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile_is_set = False
        return profile_index == 0 and bool(_launch(stream_handle, _Switch(self)))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if not self._profile_is_set:  # asynchronous: the stream has to be waited for
            return False
        fixed = self.engine.get_tensor_shape(name)
        low, high = fixed, fixed
        if -1 in fixed:
            low, _, high = self.engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(fixed) or any(not a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        if name in self.engine._inputs or len(self._shapes) < len(self.engine._inputs):
            return self.engine.get_tensor_shape(name)
        return self.engine._output_shapes(self._shapes)[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name in self.engine._values

    def execute_async_v3(self, stream_handle: int) -> bool:
        if len(self._shapes) < len(self.engine._inputs) or len(self._addresses) < self.engine.num_io_tensors:
            return False
        captured = _is_captured(stream_handle)
        if captured and self._settled != self._shapes:  # the first call with new shapes does what no graph can hold
            _library().cuStreamSynchronize(ctypes.c_void_p(stream_handle))
            return False
        self._settled = dict(self._shapes)
        shapes = {**self._shapes, **self.engine._output_shapes(self._shapes)}
        self._job = _Job(self.engine, shapes, dict(self._addresses), self._memory, captured)
        number = _launch(stream_handle, self._job)
        if captured and number:
            self._in_graphs.append(number)
        if not number:
            return False
        if captured or self.profiler is None or not self.enqueue_emits_profile:
            return True
        return not _library().cuStreamSynchronize(ctypes.c_void_p(stream_handle)) and self.report_to_profiler()

    def report_to_profiler(self) -> bool:
        """The time of the last execution, which must be over, spread over the layers: the later, the longer."""
        if self.profiler is None or self._job is None or self._job.ms is None:
            return False
        layers = self.engine._layers
        total = len(layers) * (len(layers) + 1) / 2
        for number, name in enumerate(layers, 1):
            self.profiler.report_layer_time(name, self._job.ms * number / total)
        return True


class _Switch:
    """The switch to another optimisation profile, in the order of the stream."""

    captured = False

    def __init__(self, context: IExecutionContext) -> None:
        self.context = context

    def run(self) -> int:
        self.context._profile_is_set = True
        return 0


class _Job:
    """One execution: what the context was set to when it was queued."""

    def __init__(
        self,
        engine: ICudaEngine,
        shapes: dict[str, tuple[int, ...]],
        addresses: dict[str, int],
        memory: int,
        captured: bool,
    ) -> None:
        self.engine, self.shapes, self.addresses, self.memory = engine, shapes, addresses, memory
        self.captured = captured
        self.ms: float | None = None
        """How long it took; None until it has run."""

    def run(self) -> int:
        """Gives CUDA's error, or 0."""
        arrays = {name: self._array(name) for name in self.shapes}
        if any(array is None for array in arrays.values()) or not _backing(self.memory, 1):
            return _ILLEGAL_ADDRESS
        engine = self.engine
        outputs = [name for name in arrays if name not in engine._inputs]
        start = time.perf_counter()
        values = engine._session.run(outputs, {name: arrays[name] for name in engine._inputs})
        for name, value in zip(outputs, values, strict=True):
            np.copyto(arrays[name], value)
        self.ms = 1e3 * (time.perf_counter() - start)
        return 0

    def _array(self, name: str) -> Any:
        shape, dtype = self.shapes[name], self.engine._numpy_dtype(name)
        size = math.prod(shape) * dtype.itemsize
        address = _backing(self.addresses[name], size)
        if not address:
            return None
        return (
            np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
            .view(dtype)
            .reshape(shape)
        )


# -- the emulated driver


def _library() -> Any:
    library = ctypes.CDLL("libcuda.so.1")
    library.cuemu_backing.restype = ctypes.c_void_p
    return library


def _backing(pointer: int, size: int) -> int | None:
    address: int | None = _library().cuemu_backing(ctypes.c_uint64(pointer), ctypes.c_size_t(size))
    return address


_jobs: dict[int, _Job | _Switch] = {}
_numbers = itertools.count(1)


def _run_job(number: int) -> None:
    try:
        job = _jobs[number]
        if not job.captured:
            del _jobs[number]
        error = job.run()
    except Exception:
        traceback.print_exc()
        error = _LAUNCH_FAILED
    if error:
        _library().cuemu_fail_context(error)


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_run_job)


def _is_captured(stream_handle: int) -> bool:
    status = ctypes.c_int()
    _library().cuStreamIsCapturing(ctypes.c_void_p(stream_handle), ctypes.byref(status))
    return bool(status.value)


def _launch(stream_handle: int, job: _Job | _Switch) -> int:
    """The number of the job; 0 where the driver refused it."""
    number = next(_numbers)
    _jobs[number] = job
    refused = _library().cuLaunchHostFunc(ctypes.c_void_p(stream_handle), _CALLBACK, ctypes.c_void_p(number))
    if refused:
        del _jobs[number]
    return 0 if refused else number


@contextmanager
def _some_context() -> Iterator[None]:
    """Like CUDA's runtime API: the context that is current, else the device's primary one."""
    library, context = _library(), ctypes.c_void_p()
    library.cuInit(0)
    library.cuCtxGetCurrent(ctypes.byref(context))
    if context.value:
        yield
        return
    library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    library.cuCtxPushCurrent_v2(context)
    try:
        yield
    finally:
        library.cuCtxPopCurrent_v2(ctypes.byref(context))
        library.cuDevicePrimaryCtxRelease_v2(0)


def _malloc(size: int) -> int:
    pointer = ctypes.c_uint64()
    with _some_context():
        failed = _library().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
    return 0 if failed else pointer.value


def _free(pointer: int) -> None:
    with _some_context():
        _library().cuMemFree_v2(ctypes.c_uint64(pointer))
