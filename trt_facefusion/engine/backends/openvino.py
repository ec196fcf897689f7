"""OpenVINO on the CPU: the fast backend there. It reads the typed ONNX and runs Q/DQ with float results in INT8."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import onnx

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, RunOptions, ShapeRange
from trt_facefusion.engine.backends.capabilities import Capabilities, Judged, Library
from trt_facefusion.engine.backends.checks import load_checked
from trt_facefusion.engine.backends.onnxruntime import count_weight_bytes
from trt_facefusion.engine.backends.openvino_kernels import MATH_TYPES, map_nodes, read_kernels
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.backends.processor import lacks_byte_products, name_instructions
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.openvino import (
    DEVICE,
    OpenVinoRunner,
    explain,
    import_openvino,
    make_configuration,
    open_core,
)
from trt_facefusion.errors import BackendUnavailableError, BuildError
from trt_facefusion.types import Progress, silent

_NO_HALF = "OpenVINO computes FP16 in FP32 on a CPU: this engine is no faster than the FP32 one"


class OpenVino:
    """The backend ``openvino``."""

    name = "openvino"
    suffix = "blob"
    library = Library("openvino", "OpenVINO", ("openvino",), extra="openvino")

    @property
    def capabilities(self) -> Capabilities:
        """What it can do on this processor."""
        instructions = name_instructions()
        return Capabilities(
            pads_with_zero_points=True,
            compiles_in_seconds=True,
            float64=True,
            judged=Judged.ENGINE,
            needs_gpu=False,
            processor=instructions,
            adds_pairs_in_16_bits=lacks_byte_products(instructions),
            transposes_in_int8=not lacks_byte_products(instructions),  # else twice as slow as in FP32
            quantises_before_pads=True,
            math_types=MATH_TYPES,
        )

    @property
    def caution(self) -> str:
        """What this processor cannot do."""
        instructions = name_instructions()
        if not lacks_byte_products(instructions):
            return ""
        return (
            f"this processor ({instructions}) has no instruction that multiplies and adds 8-bit integers (VNNI): INT8 "
            "is at most twice as fast as FP32, and steps of weights are wider, so that two products fit into 16 bits"
        )

    def version(self) -> str:
        """Version of the library, like ``2026.4.1``. Raises BackendUnavailableError when it is not installed."""
        return str(import_openvino().__version__).partition("-")[0]

    def targets(self) -> tuple[str, ...]:
        """Only ``cpu``."""
        return ("cpu",)

    def default_target(self) -> str:
        """Only ``cpu``."""
        return "cpu"

    def recommend(self, target: str) -> str | None:
        """For ``cpu``."""
        return "the target is the CPU, where OpenVINO is fastest" if target == "cpu" else None

    def require(self, target: str) -> None:
        """Raise BackendUnavailableError unless it is installed and ``target`` is ``cpu``."""
        if target != "cpu":
            raise BackendUnavailableError(
                f"openvino builds for the target cpu, not for {target!r}.",
                "Take --target cpu, or --backend tensorrt-rtx for a GPU target.",
            )
        import_openvino()

    def check(self, model: bytes) -> None:
        """Raise BuildError if OpenVINO cannot read ``model``."""
        load_checked(model)
        _read(model, {})

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        """Compile the typed ONNX for this processor and export it; the graph that it runs tells its kernels.

        Raises:
            BackendUnavailableError: not installed, or the target is not ``cpu``.
            BuildError: OpenVINO refused the network.
        """
        self.require(request.target)
        started = time.monotonic()
        progress("compile", 0, 100)
        model = load_checked(request.model)
        compiled = _compile(_read(request.model, request.shapes))
        kernels = tuple(read_kernels(compiled.get_runtime_model(), map_nodes(model)))
        data = compiled.export_model().getvalue()
        progress("compile", 100, 100)
        return BuiltEngine(
            data=data,
            backend=self.name,
            backend_version=self.version(),
            target=request.target,
            kernels=kernels,
            kernels_known=True,
            engine_bytes=len(data),
            weights_bytes=count_weight_bytes(model),
            activations_bytes=None,
            seconds=time.monotonic() - started,
            notes=(_NO_HALF,) if _is_half_only(model) else (),
            pins=Pins.of_this_processor(),
        )

    def open(self, engine: bytes, options: RunOptions) -> Runner:
        """A runner on the CPU. Raises DeviceError where OpenVINO refuses the engine."""
        return OpenVinoRunner(engine, options.threads, options.slots, options.layers)


def _read(model: bytes, shapes: Mapping[str, ShapeRange]) -> Any:
    """OpenVINO's model of an ONNX, for these shapes. Raises BuildError where it refuses an operator."""
    ov = import_openvino()
    try:
        read = open_core().read_model(model)
        dynamic = {port.get_node().get_friendly_name() for port in read.inputs if port.get_partial_shape().is_dynamic}
        ranges = {name: _make_range(ov, shapes[name]) for name in dynamic & shapes.keys()}
        if ranges:
            read.reshape(ranges)
    except Exception as error:  # RuntimeError, and what pybind11 raises
        raise _refuse(error) from error
    return read


def _make_range(ov: ModuleType, shapes: ShapeRange) -> Any:
    smallest, _, largest = shapes
    return ov.PartialShape([ov.Dimension(low, high) for low, high in zip(smallest, largest, strict=True)])


def _compile(model: Any) -> Any:
    try:
        return open_core().compile_model(model, DEVICE, make_configuration())
    except Exception as error:
        raise _refuse(error) from error


def _refuse(error: Exception) -> BuildError:
    return BuildError(
        f"OpenVINO refused the network: {explain(error)}",
        "Replace the operator named here before the export, or take --backend onnxruntime.",
    )


def _is_half_only(model: onnx.ModelProto) -> bool:
    """Whether FP16 is the lowest precision of a typed graph."""
    operators = {node.op_type for node in model.graph.node}
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    return "QuantizeLinear" not in operators and onnx.TensorProto.FLOAT16 in casts
