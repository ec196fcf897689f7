"""A twin of `tensorrt` for tests: parses the real ONNX, honours flags and constraints, calibrates, builds a "plan".

A plan is ``TWINPLAN1\\n``, one line of JSON, ``\\n``, and an ONNX model that computes what the engine would. In a
weakly typed build (version 10) that model comes from what the adapter told the *library* (layer precisions, flags, the
calibration cache) and never from the plan that the adapter was given, so whatever gets lost on the way shows in the
numbers. The JSON line holds ``version``, ``profiles`` ({input: [min, opt, max]}), ``precisions`` ({node: precision},
empty for a strongly typed build), ``scales`` ({tensor: amax}) and ``layers`` (what the inspector shows).

``make_twin("10.16.1.11")`` gives a module for ``sys.modules["tensorrt"]``.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from trt_facefusion.build.tuning.histograms import find_watched_tensors
from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.model.export import digest_model
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration import CalibrationTable, collect, parse_rule
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision.plan import Plan, describe
from trt_facefusion.types import Precision
from twin import surface
from twin.surface import (
    DataType,
    IBuilderConfig,
    IHostMemory,
    ILayer,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    LayerType,
    Severity,
    Traced,
)

MAGIC = b"TWINPLAN1\n"
VERSION_10, VERSION_11 = "10.16.1.11", "11.4.0.106"

Reader = Callable[[int, int], bytes]
"""Reads ``size`` bytes at a device address."""

_DTYPES = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.FLOAT16: DataType.HALF,
    TensorProto.INT8: DataType.INT8,
    TensorProto.INT32: DataType.INT32,
    TensorProto.INT64: DataType.INT64,
    TensorProto.BOOL: DataType.BOOL,
}
_KINDS = {
    "Conv": LayerType.CONVOLUTION,
    "ConvTranspose": LayerType.DECONVOLUTION,
    "Gemm": LayerType.MATRIX_MULTIPLY,
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Relu": LayerType.ACTIVATION,
    "LeakyRelu": LayerType.ACTIVATION,
    "Sigmoid": LayerType.ACTIVATION,
    "Tanh": LayerType.ACTIVATION,
    "Clip": LayerType.ACTIVATION,
    "Reshape": LayerType.SHUFFLE,
    "Transpose": LayerType.SHUFFLE,
    "Flatten": LayerType.SHUFFLE,
    "Squeeze": LayerType.SQUEEZE,
    "Unsqueeze": LayerType.UNSQUEEZE,
    "Concat": LayerType.CONCATENATION,
    "Resize": LayerType.RESIZE,
    "Softmax": LayerType.SOFTMAX,
    "Cast": LayerType.CAST,
    "Shape": LayerType.SHAPE,
    "Slice": LayerType.SLICE,
    "Pad": LayerType.SLICE,
    "Gather": LayerType.GATHER,
    "ReduceMean": LayerType.REDUCE,
    "Sqrt": LayerType.UNARY,
    "MaxPool": LayerType.POOLING,
    "AveragePool": LayerType.POOLING,
    "GlobalAveragePool": LayerType.POOLING,
    "QuantizeLinear": LayerType.QUANTIZE,
    "DequantizeLinear": LayerType.DEQUANTIZE,
}
_ENUMS = (
    "DataType",
    "LayerType",
    "ProfilingVerbosity",
    "MemoryPoolType",
    "HardwareCompatibilityLevel",
    "LayerInformationFormat",
    "EngineStat",
)
_NO_LAYER = {"Dropout", "Constant"}
_MATH = {"Conv": "CaskConvolution", "ConvTranspose": "CaskDeconvolutionV2", "Gemm": "gemm", "MatMul": "gemm"}
_SHORT = {Precision.INT8: "Int8", Precision.FP16: "FP16", Precision.FP32: "FP32"}


def read_host(address: int, size: int) -> bytes:
    """Device memory that is host memory."""
    return ctypes.string_at(address, size)


@dataclass
class Twin:
    """One twin library: its version, how it reads device memory, and nodes whose constraint it breaks."""

    version: str
    read_memory: Reader = read_host
    disobeys: frozenset[str] = frozenset()
    last_config: Any = None
    last_network: Any = None
    batches_seen: int = 0
    no_gpu: bool = False

    @property
    def weak(self) -> bool:
        return self.version.startswith("10.")


class _Module(ModuleType):
    """The module: public attributes are those of the real library."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            surface.TOUCHED.add(("", name))
        return super().__getattribute__(name)


def make_twin(version: str = VERSION_10, **options: Any) -> tuple[ModuleType, Twin]:
    """A module that stands in for `tensorrt` of that version, and its state."""
    twin = Twin(version, **options)
    module = _Module("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)  # torch asks for it
    names = [*_ENUMS, "ILogger", "IProgressMonitor"]
    public = {name: getattr(surface, name) for name in names}
    public |= {
        "__version__": version,
        "BuilderFlag": surface.BuilderFlag10 if twin.weak else surface.BuilderFlag11,
        "NetworkDefinitionCreationFlag": surface.CreationFlag10 if twin.weak else surface.CreationFlag11,
    }
    if twin.weak:
        public["IConstantLayer"] = surface.IConstantLayer10
        public["IInt8EntropyCalibrator2"] = surface.IInt8EntropyCalibrator2
        public["IInt8MinMaxCalibrator"] = surface.IInt8MinMaxCalibrator
    for made in (Builder, OnnxParser, Runtime):
        public[made.__name__] = type(made.__name__, (made,), {"__slots__": (), "_twin": twin})
    for name, value in public.items():
        setattr(module, name, value)
    return module, twin


class Builder(Traced):
    __slots__ = ("_logger",)
    _twin: Twin

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        if self._twin.no_gpu:
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("factory function returned nullptr")

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        creation = surface.CreationFlag10 if self._twin.weak else surface.CreationFlag11
        return INetworkDefinition(not self._twin.weak or bool(flags & (1 << int(creation.STRONGLY_TYPED))))

    def create_builder_config(self) -> IBuilderConfig:
        made = surface.IBuilderConfig10 if self._twin.weak else IBuilderConfig
        self._twin.last_config = made(self._twin.version)
        return self._twin.last_config

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        try:
            return _Build(self._twin, self._logger, network, config).run()
        except _RefusedError as error:
            self._logger.log(Severity.ERROR, str(error))
            return None


class ParserError(Traced):
    __slots__ = ("_node",)

    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node

    def desc(self) -> str:
        return "Assertion failed: false"

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type


class OnnxParser(Traced):
    __slots__ = ("_errors", "_logger", "_network", "_unnamed")
    _twin: Twin

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []
        self._unnamed = 0

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def supports_operator(self, op_name: str) -> bool:
        return onnx.defs.has(op_name)

    def parse(self, model: bytes) -> bool:
        proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model))
        self._errors = [ParserError(node) for node in proto.graph.node if not onnx.defs.has(node.op_type, node.domain)]
        if self._errors:
            return False
        self._network._model = onnx.load_model_from_string(model)
        _Import(self._twin, self._network, GraphView(proto)).run()
        return True


class _Import:
    """ONNX nodes -> layers, the way the real parser does it: some become several, some none."""

    def __init__(self, twin: Twin, network: INetworkDefinition, view: GraphView) -> None:
        self.network, self.view, self.weak = network, view, twin.weak
        self.tensors: dict[str, ITensor] = {}

    def run(self) -> None:
        for value in self.view.model.graph.input:
            shape = tuple(axis if isinstance(axis, int) else -1 for axis in self.view.shape(value.name) or ())
            self.tensors[value.name] = ITensor(value.name, self._dtype(value.name), shape)
            self.network._inputs.append(self.tensors[value.name])
        for node in self.view.model.graph.node:
            self._node(node)

    def _node(self, node: onnx.NodeProto) -> None:
        if node.op_type in _NO_LAYER:
            if node.input and node.output[0] not in self.view.output_names:
                self.tensors[node.output[0]] = self.tensors[node.input[0]]
            return
        metadata = f"[ONNX Layer: {node.name or 'node_of_' + node.output[0]}]"
        inputs = [self._input(name) for name in node.input if name]
        outputs = [self._tensor(name) for name in node.output if name]
        kind = _KINDS.get(node.op_type, LayerType.ELEMENTWISE)
        if node.op_type == "Gemm" and len(inputs) == 3:  # a product, and a bias that is added
            product = ITensor(
                f"(Unnamed Layer* {len(self.network._layers)}) [Matrix Multiply]_output", outputs[0]._dtype
            )
            self._layer(node.name, kind, inputs[:2], [product], metadata)
            self._layer(f"{node.name}_bias", LayerType.ELEMENTWISE, [product, inputs[2]], outputs, metadata)
        else:
            self._layer(node.name, kind, inputs, outputs, metadata)

    def _layer(self, name: str, kind: Any, inputs: list[ITensor], outputs: list[ITensor], metadata: str) -> ILayer:
        constant = kind == LayerType.CONSTANT
        if self.weak:
            made = surface.IConstantLayer10 if constant else surface.ILayer10
        else:
            made = surface.IConstantLayer if constant else ILayer
        layer = made(name, kind, inputs, outputs, metadata)
        self.network._layers.append(layer)
        return layer

    def _input(self, name: str) -> ITensor:
        if name not in self.tensors:
            self.tensors[name] = ITensor(f"{name}_output", self._dtype(name))
            layer = self._layer(name, LayerType.CONSTANT, [], [self.tensors[name]], "")
            layer._weights = self.view.constant(name)
        return self.tensors[name]

    def _tensor(self, name: str) -> ITensor:
        self.tensors[name] = ITensor(name, self._dtype(name), (), name in self.view.output_names)
        return self.tensors[name]

    def _dtype(self, name: str) -> Any:
        return _DTYPES.get(self.view.element_type(name), DataType.INT32)


class _RefusedError(Exception):
    """The twin's error log."""


class _Build:
    """One build from what the library was told."""

    def __init__(self, twin: Twin, logger: Any, network: INetworkDefinition, config: IBuilderConfig) -> None:
        self.twin, self.logger, self.network, self.config = twin, logger, network, config
        self.view = GraphView(network._model)
        self.scales: dict[str, float] = {}

    def run(self) -> IHostMemory:
        self.twin.last_network = self.network
        self._progress()
        self._check_profiles()
        weak = not self.network._strongly_typed
        precisions: dict[str, Precision] = {}
        model = self.network._model
        if weak:
            if "INT8" in self.config._flags:
                self.scales = self._scales()
            precisions = {node: self._precision(node) for node in self._described}
            model = self._lowered(precisions)
        if self.config._timing is not None:
            self.config._timing._data = f"TWINTIMING {self.twin.version}".encode()
        header = {
            "version": self.twin.version,
            "profiles": {name: shapes for p in self.config._profiles for name, shapes in p._shapes.items()},
            "precisions": {node: precision.value for node, precision in precisions.items()},
            "scales": self.scales,
            "layers": list(self._layers(precisions)),
            "version_compatible": "VERSION_COMPATIBLE" in self.config._flags,
        }
        return IHostMemory(MAGIC + json.dumps(header).encode() + b"\n" + model.SerializeToString())

    def _progress(self) -> None:
        monitor = self.config.progress_monitor
        if monitor is None:
            return
        monitor.phase_start("Building", None, 4)
        for step in range(4):
            if not monitor.step_complete("Building", step):
                raise _RefusedError("the build was cancelled")
        monitor.phase_finish("Building")

    def _check_profiles(self) -> None:
        known = {name for profile in self.config._profiles for name in profile._shapes}
        for tensor in self.network._inputs:
            if -1 in tensor._shape and tensor._name not in known:
                raise _RefusedError(f"{tensor._name}: dynamic input is missing dimensions in profile 0.")

    @property
    def _described(self) -> dict[str, Any]:
        return {node.name: node for node in describe(self.view)}

    def _scales(self) -> dict[str, float]:
        """The calibrator's cache where its header is right, else a calibration of the library's own."""
        calibrator = self.config.int8_calibrator
        if calibrator is None:
            raise _RefusedError("INT8 is on and there is no calibrator")
        entropy = isinstance(calibrator, surface.IInt8EntropyCalibrator2)
        major, minor, patch = map(int, self.twin.version.split(".")[:3])
        name = "EntropyCalibration2" if entropy else "MinMaxCalibration"
        header = f"TRT-{major * 10000 + minor * 100 + patch}-{name}"
        cache = calibrator.read_calibration_cache()
        if cache is not None and bytes(cache).split(b"\n")[0].decode() == header:
            table = CalibrationTable.loads(bytes(cache).decode())
        else:
            table = CalibrationTable(self._calibrated(calibrator, "entropy" if entropy else "max"), header)
            calibrator.write_calibration_cache(memoryview(table.dumps().encode()))
        for tensor in self._float_tensors():
            if tensor not in table:
                self.logger.log(Severity.WARNING, f"Missing scale and zero-point for tensor {tensor}, expect fall back")
        return dict(table)

    def _float_tensors(self) -> Iterable[str]:
        tensors = [*self.network._inputs, *(t for layer in self.network._layers for t in layer._outputs)]
        return dict.fromkeys(t._name for t in tensors if t._dtype == DataType.FLOAT)

    def _calibrated(self, calibrator: Any, rule: str) -> dict[str, float]:
        watched, aliases = find_watched_tensors(self.view)
        batches = list(self._batches(calibrator))
        if not batches:
            raise _RefusedError("Calibration failure occurred with no scaling factors detected.")
        histograms = collect(self.network._model, watched, batches)
        threshold = parse_rule(rule)
        amax = {name: max(threshold(histogram), 1e-12) for name, histogram in histograms.items()}
        amax |= {name: amax[source] for name, source in aliases.items() if source in amax}
        for layer in self.network._layers:
            if layer._type == LayerType.CONSTANT and layer._outputs[0]._dtype == DataType.FLOAT:
                amax[layer._outputs[0]._name] = max(float(np.abs(layer._weights).max()), 1e-12)
            elif layer._outputs[0]._name not in amax:  # inside a node: near enough to the node's own output
                last = [other for other in self.network._layers if other._metadata == layer._metadata][-1]
                amax[layer._outputs[0]._name] = amax.get(last._outputs[0]._name, 1.0)
        return amax

    def _batches(self, calibrator: Any) -> Iterable[dict[str, Any]]:
        profile = self.config._calibration_profile
        shapes = {t._name: t._shape for t in self.network._inputs}
        if profile is not None:
            shapes |= {name: opt for name, (_, opt, _) in profile._shapes.items()}
        if any(-1 in shape for shape in shapes.values()):
            raise _RefusedError("Calibration Profile is not defined. Calibration may fail.")
        names = list(shapes)
        while (addresses := calibrator.get_batch(names)) is not None:
            self.twin.batches_seen += 1
            yield {
                name: np.frombuffer(self.twin.read_memory(address, 4 * int(np.prod(shapes[name]))), np.float32)
                .reshape(shapes[name])
                .copy()
                for name, address in zip(names, addresses, strict=True)
            }

    def _precision(self, node: str) -> Precision:
        """What a node runs in: its constraint where constraints count, else the cheapest that is allowed."""
        flags = self.config._flags
        layers = [layer for layer in self.network._layers if f"[ONNX Layer: {node}]" in layer._metadata]
        held = {layer._precision for layer in layers} - {None}
        if held and flags & {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}:
            (dtype,) = held
            if dtype == DataType.HALF and "FP16" not in flags:
                raise _RefusedError(f"{node} is held to FP16, which is not enabled")
            return {DataType.HALF: Precision.FP16, DataType.FLOAT: Precision.FP32}[dtype]
        if "INT8" in flags and self._described[node].quantisable and self._has_scales(node, layers):
            return Precision.INT8
        return Precision.FP16 if "FP16" in flags else Precision.FP32

    def _has_scales(self, node: str, layers: list[ILayer]) -> bool:
        names = [self.view.nodes[node].input[0], *(t._name for layer in layers for t in layer._outputs)]
        return all(name in self.scales for name in names)

    def _lowered(self, precisions: dict[str, Precision]) -> onnx.ModelProto:
        nodes = tuple(replace(node, precision=precisions[name]) for name, node in self._described.items())
        try:
            return lower(self.view, Plan("twin", digest_model(self.view.model), nodes), self.scales)
        except CalibrationCacheError as error:
            raise _RefusedError(error.message) from error

    def _layers(self, precisions: dict[str, Precision]) -> Iterable[dict[str, Any]]:
        """What the inspector shows; a node that the twin disobeys runs in INT8."""
        for node in self.view.model.graph.node:
            if node.op_type in _NO_LAYER | {"QuantizeLinear", "DequantizeLinear", "Cast", "Shape"}:
                continue
            precision = precisions.get(node.name) or self._typed_precision(node)
            if node.name in self.twin.disobeys:
                precision = Precision.INT8
            dtype = _SHORT[precision]
            out = dtype if node.name in self.twin.disobeys else dtype.replace("Int8", "FP16")
            layer: dict[str, Any] = {
                "Name": node.name,
                "LayerType": _MATH.get(node.op_type, "kgen"),
                "Inputs": [_shown(name, dtype) for name in node.input[:1]],
                "Outputs": [_shown(name, out) for name in node.output],
                "TacticName": "twin",
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
            if node.op_type in _MATH:
                layer["Weights"] = {"Type": dtype.replace("FP16", "Half").replace("FP32", "Float"), "Count": 1}
            yield layer

    def _typed_precision(self, node: onnx.NodeProto) -> Precision:
        makers = [self.view.producer.get(name) for name in node.input[:2]]
        if node.op_type in _MATH and all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers):
            return Precision.INT8
        constants = [self.view.element_type(name) for name in node.input if self.view.is_constant(name)]
        casts = [m for m in makers if m is not None and m.op_type == "Cast"]
        half = TensorProto.FLOAT16 in constants or any(a.i == TensorProto.FLOAT16 for m in casts for a in m.attribute)
        return Precision.FP16 if half else Precision.FP32


def _shown(name: str, dtype: str) -> dict[str, Any]:
    return {"Name": name, "Dimensions": [1], "Format/Datatype": f"Row major linear {dtype}"}


class Runtime(Traced):
    __slots__ = ("engine_host_code_allowed",)
    _twin: Twin

    def __init__(self, logger: Any) -> None:
        object.__setattr__(self, "engine_host_code_allowed", False)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            header, _ = read_plan(bytes(serialized_engine))
        except ValueError:
            return None
        allowed = object.__getattribute__(self, "engine_host_code_allowed") or not header["version_compatible"]
        return ICudaEngine(header) if allowed and header["version"] == self._twin.version else None


class ICudaEngine(Traced):
    __slots__ = ("_header",)

    def __init__(self, header: dict[str, Any]) -> None:
        self._header = header

    @property
    def device_memory_size_v2(self) -> int:
        return 4096

    def get_engine_stat(self, stat: Any) -> int:
        return 1024

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._header["layers"])


class EngineInspector(Traced):
    __slots__ = ("_layers",)

    def __init__(self, layers: list[dict[str, Any]]) -> None:
        self._layers = layers

    def get_engine_information(self, format: Any) -> str:
        return json.dumps({"Layers": self._layers, "Bindings": []})


def read_plan(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and ONNX model of a plan. Raises ValueError when it is none."""
    if not data.startswith(MAGIC):
        raise ValueError("not a twin's plan")
    line, _, model = data.removeprefix(MAGIC).partition(b"\n")
    header: dict[str, Any] = json.loads(line)
    return header, model
