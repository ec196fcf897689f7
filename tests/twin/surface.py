"""The classes of `tensorrt` that the adapters touch, 10.x and 11.x; behaviour sits in builder.py.

Public names are those of the real library and no others, and every class has slots: an attribute that the real library
lacks is an AttributeError here, too. Each public access from outside is noted in ``TOUCHED``.
"""

from __future__ import annotations

import enum
from typing import Any

TOUCHED: set[tuple[str, str]] = set()


class Traced:
    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            TOUCHED.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            TOUCHED.add((type(self).__name__, name))
        object.__setattr__(self, name, value)


def _enum(name: str, members: str) -> Any:
    return enum.IntEnum(name, {member: index for index, member in enumerate(members.split())})


DataType = _enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64")
LayerType = _enum(
    "LayerType",
    "CONVOLUTION CAST ACTIVATION POOLING DECONVOLUTION ELEMENTWISE UNARY SOFTMAX SHUFFLE REDUCE CONCATENATION GATHER "
    "MATRIX_MULTIPLY CONSTANT RESIZE NORMALIZATION SHAPE SLICE QUANTIZE DEQUANTIZE IDENTITY SQUEEZE UNSQUEEZE",
)
ProfilingVerbosity = _enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE")
HardwareCompatibilityLevel = _enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY")
LayerInformationFormat = _enum("LayerInformationFormat", "ONELINE JSON")
EngineStat = _enum("EngineStat", "TOTAL_WEIGHTS_SIZE")
CreationFlag10 = _enum("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH STRONGLY_TYPED")
CreationFlag11 = _enum("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
BuilderFlag10 = _enum(
    "BuilderFlag", "FP16 INT8 TF32 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS VERSION_COMPATIBLE"
)
BuilderFlag11 = _enum("BuilderFlag", "TF32 VERSION_COMPATIBLE")
Severity = _enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


class ILogger:
    Severity = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def phase_finish(self, phase_name: str) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True


class IInt8Calibrator:
    def __init__(self) -> None: ...

    def get_batch_size(self) -> int:
        raise NotImplementedError

    def get_batch(self, names: list[str]) -> list[int] | None:
        raise NotImplementedError

    def read_calibration_cache(self) -> bytes | None:
        raise NotImplementedError

    def write_calibration_cache(self, cache: memoryview) -> None:
        raise NotImplementedError


class IInt8EntropyCalibrator2(IInt8Calibrator):
    pass


class IInt8MinMaxCalibrator(IInt8Calibrator):
    pass


class IHostMemory(Traced):
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data

    @property
    def nbytes(self) -> int:
        return len(self._data)


class ITensor(Traced):
    __slots__ = ("_dtype", "_name", "_output", "_shape")

    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...] = (), output: bool = False) -> None:
        self._name, self._dtype, self._shape, self._output = name, dtype, shape, output

    @property
    def name(self) -> str:
        return self._name

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def is_network_output(self) -> bool:
        return self._output

    @property
    def is_shape_tensor(self) -> bool:
        return False


class ILayer(Traced):
    __slots__ = ("_inputs", "_metadata", "_name", "_outputs", "_type", "_weights")

    def __init__(self, name: str, kind: Any, inputs: list[ITensor], outputs: list[ITensor], metadata: str) -> None:
        self._name, self._type, self._metadata = name, kind, metadata
        self._inputs, self._outputs = inputs, outputs
        self._weights: Any = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> Any:
        return self._type

    @property
    def metadata(self) -> str:
        return self._metadata

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ConstantMixin:
    __slots__ = ()

    @property
    def weights(self) -> Any:
        return self._weights  # type: ignore[attr-defined]


class ILayer10(ILayer):
    """Version 10: a layer can be held to a precision."""

    __slots__ = ("_output_types", "_precision")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._precision: Any = None
        self._output_types: dict[int, Any] = {}

    @property
    def precision(self) -> Any:
        return self._precision

    @precision.setter
    def precision(self, value: Any) -> None:
        self._precision = DataType(value)

    def set_output_type(self, index: int, dtype: Any) -> None:
        assert 0 <= index < len(self._outputs)
        self._output_types[index] = DataType(dtype)


class IConstantLayer(ConstantMixin, ILayer):
    __slots__ = ()


class IConstantLayer10(ConstantMixin, ILayer10):
    __slots__ = ()


class INetworkDefinition(Traced):
    __slots__ = ("_inputs", "_layers", "_model", "_strongly_typed")

    def __init__(self, strongly_typed: bool) -> None:
        self._strongly_typed = strongly_typed
        self._inputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._model: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_layer(self, index: int) -> ILayer:
        layer = self._layers[index]
        # Like the real one: whatever the layer is, it comes as the base class.
        made = object.__getattribute__(layer, "__class__")
        object.__setattr__(layer, "__class__", ILayer10 if issubclass(made, ILayer10) else ILayer)
        return layer


class IOptimizationProfile(Traced):
    __slots__ = ("_shapes",)

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache(Traced):
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data)


class IBuilderConfig(Traced):
    __slots__ = (
        "_calibration_profile",
        "_flags",
        "_profiles",
        "_timing",
        "_version",
        "_workspace",
        "builder_optimization_level",
        "hardware_compatibility_level",
        "profiling_verbosity",
        "progress_monitor",
    )

    def __init__(self, version: str) -> None:
        self._version = version
        self._flags: set[str] = {"TF32"}
        self._profiles: list[IOptimizationProfile] = []
        self._calibration_profile: IOptimizationProfile | None = None
        self._timing: ITimingCache | None = None
        self._workspace: int | None = None
        object.__setattr__(self, "progress_monitor", None)
        object.__setattr__(self, "profiling_verbosity", ProfilingVerbosity.LAYER_NAMES_ONLY)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert pool == MemoryPoolType.WORKSPACE
        self._workspace = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        fits = not cache._data or cache._data.startswith(b"TWINTIMING " + self._version.encode())
        if fits or ignore_mismatch:
            self._timing = cache
        return fits

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing


class IBuilderConfig10(IBuilderConfig):
    __slots__ = ("int8_calibrator",)

    def __init__(self, version: str) -> None:
        super().__init__(version)
        object.__setattr__(self, "int8_calibrator", None)

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        self._calibration_profile = profile
        return True


# Noted, and looked up in the real library, under its names.
for _class in (ILayer10, IConstantLayer10, IBuilderConfig10):
    _class.__name__ = _class.__name__.removesuffix("10")
