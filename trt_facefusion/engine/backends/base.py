"""The protocol of a backend, and the words for what comes out of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trt_facefusion.engine.backends.capabilities import Capabilities, Library
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.storage.documents import LATER
from trt_facefusion.types import Feeds, Precision, Progress, silent

ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, most usual and largest shape of one network input."""

HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")

_EIGHT_BIT = frozenset({"int8", "uint8"})
_INTEGERS = _EIGHT_BIT | {"uint16"}


@dataclass(frozen=True)
class TensorFormat:
    """One tensor of a kernel: ``dtype`` like ``int8`` or ``fp16``; -1 in ``shape`` is a dynamic axis.

    ``count`` is the number of elements where the engine maker tells that, but no shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    layout: str = ""
    count: int | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class Kernel:
    """One kernel of a built engine. ``nodes`` are the names of the ONNX nodes it was made from."""

    name: str
    type: str
    nodes: tuple[str, ...] = ()
    inputs: tuple[TensorFormat, ...] = ()
    constants: tuple[TensorFormat, ...] = ()
    outputs: tuple[TensorFormat, ...] = ()
    tactic: str = ""

    def is_math(self, math_types: Collection[str]) -> bool:
        """Whether this kernel multiplies and adds (convolution, linear layer, matrix product).

        ``math_types`` are those of the backend that built it (`Capabilities.math_types`).
        """
        return self.type in math_types

    def is_int8_math(self, math_types: Collection[str]) -> bool:
        """Whether both factors are integers: weights (or the second activation of a product) of 8 bits, and activations
        of 8, or of 16 on a processor that stores them so."""
        if not self.is_math(math_types) or not self.inputs or self.inputs[0].dtype not in _INTEGERS:
            return False
        factors = [*self.inputs[1:], *self.constants]
        return any(tensor.dtype in _EIGHT_BIT and _is_matrix(tensor) for tensor in factors)

    @property
    def dtypes(self) -> str:
        """Types of the factors and of the result, like ``int8 x int8 -> fp32``."""
        factors = [t for t in (*self.inputs, *self.constants) if _is_matrix(t)] or list(self.inputs)
        return f"{' x '.join(t.dtype for t in factors[:2])} -> {', '.join(t.dtype for t in self.outputs)}"


def _is_matrix(tensor: TensorFormat) -> bool:
    # Scales and zero points are constants too, of one axis. An empty shape is an unknown one.
    return not tensor.shape or len(tensor.shape) >= 2


@dataclass(frozen=True)
class BuildOptions:
    """Choices of TensorRT's builder; every field has the library's own default. Other backends pass them over.

    Attributes:
        timing_cache: folder for tactic timings, one file for each GPU and version; None keeps none.
        optimization_level: 0 (fast build) to 5 (long search); None is the library's default.
        hardware_compatibility: one of ``HARDWARE_COMPATIBILITY``.
        version_compatible: the engine also loads in later versions of the same major one; costs speed.
        obey: the build fails where a protected layer cannot keep its precision; False only prefers it.
    """

    timing_cache: Path | None = None
    optimization_level: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    obey: bool = True


@dataclass(frozen=True)
class WeakTyping:
    """What a weakly typed backend (TensorRT 10) builds from, in place of the typed ONNX.

    Attributes:
        model: the FP32 ONNX that the plan speaks of.
        precisions: the plan, node -> precision. INT8 nodes may run in INT8; all others are held to their precision.
        table: amax of each tensor; None where no node is INT8.
        batches: where given, TensorRT calibrates itself on these, and ``table`` is not used.
        algorithm: ``entropy`` or ``minmax``: the calibrator that the table or the batches go through.
        keep: file for the table that TensorRT makes from ``batches``, as TensorRT wrote it.
    """

    model: bytes
    precisions: Mapping[str, Precision]
    table: Mapping[str, float] | None = None
    batches: Iterable[Feeds] | None = None
    algorithm: str = "entropy"
    keep: Path | None = None


@dataclass(frozen=True)
class ConstraintReport:
    """How a plan was mapped to the layers of a weakly typed network.

    ``layers`` names the layers that each ONNX node became (several, or none), ``constrained`` counts the layers held to
    a precision. ``without_layer`` are protected nodes that became no layer, ``without_node`` layers of no ONNX node.
    """

    layers: Mapping[str, tuple[str, ...]]
    constrained: int
    free: tuple[str, ...]
    without_layer: tuple[str, ...]
    without_node: tuple[str, ...]

    @property
    def several(self) -> tuple[str, ...]:
        """Nodes that became more than one layer."""
        return tuple(node for node, layers in self.layers.items() if len(layers) > 1)


@dataclass(frozen=True)
class ScaleReport:
    """How a calibration table covers a weakly typed network, in the parser's names.

    ``amax`` holds what TensorRT is given; ``derived`` says whose range a tensor took over (or ``weights``). ``missing``
    are tensors without a range, which cost the layers around them their INT8; ``unknown`` are names of the table that
    the network does not have.
    """

    amax: Mapping[str, float]
    derived: Mapping[str, str]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class BuildRequest:
    """What to build: a typed ONNX (strongly typed: every cast and Q/DQ is in the graph) for one target.

    Attributes:
        model: the serialised ONNX model, weights inside.
        shapes: for each dynamic input its smallest, most usual and largest shape; static inputs may be left out.
        target: ``sm86`` and the like, or ``cpu``.
        workspace_bytes: scratch memory that the engine may use; None leaves it to the backend.
        weak: the same plan for a weakly typed backend; others build ``model``.
        options: choices of TensorRT's builder.
    """

    model: bytes
    shapes: Mapping[str, ShapeRange]
    target: str
    workspace_bytes: int | None = None
    weak: WeakTyping | None = None
    options: BuildOptions = field(default_factory=BuildOptions)


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and what is known of it.

    ``kernels_known`` is False where the backend's log could not be read: then nothing is known of the kernels, and
    ``kernels`` is empty. ``weights_bytes`` and ``activations_bytes`` are None where the backend does not say.
    ``notes`` are what a person should know: layers that did not keep their precision, tensors without a scale.
    ``left`` are nodes that the target's processor does not take and leaves to its CPU, with the reason.
    ``constraints`` and ``scales`` come from a weakly typed build, ``calibration`` (tensor -> amax) is the table
    that the library made itself. ``pins`` is what the machine that loads it must have.
    """

    data: bytes
    backend: str
    backend_version: str
    target: str
    kernels: tuple[Kernel, ...]
    kernels_known: bool
    engine_bytes: int
    weights_bytes: int | None
    activations_bytes: int | None
    seconds: float
    log_tail: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    constraints: ConstraintReport | None = None
    scales: ScaleReport | None = None
    calibration: Mapping[str, float] | None = None
    pins: Pins = field(default_factory=Pins)


@dataclass(frozen=True)
class RunOptions:
    """How an engine is to be run; a backend passes over what its runner has no use for.

    Attributes:
        slots: inferences in flight.
        device: number of the GPU.
        threads: CPU threads; None leaves it to the library.
        host_code: the engine may bring code for the host along; only where its origin is known.
        layers: the runner is asked for times of layers (`StatesLayerTimes`), if it has any; runners on a CPU are a
            little slower for it.
    """

    slots: int = 2
    device: int = 0
    threads: int | None = None
    host_code: bool = False
    layers: bool = False


class Backend(Protocol):
    """Builds engines with one library, and opens them. `registry.BACKENDS` has a line for each."""

    @property
    def name(self) -> str:
        """Name on the command line and in manifests."""

    @property
    def suffix(self) -> str:
        """Ending of the engine's file name, without the dot."""

    @property
    def library(self) -> Library:
        """The library behind it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def caution(self) -> str:
        """What a person should know before relying on its engines, as `trt-ff doctor` says it; may be empty."""

    def version(self) -> str:
        """Version of the library. Raises BackendUnavailableError when it is not installed."""

    def targets(self) -> tuple[str, ...]:
        """The targets that it builds for."""

    def default_target(self) -> str | None:
        """The target where none was named; None where this machine has none for it."""

    def recommend(self, target: str) -> str | None:
        """Why ``--backend auto`` takes it for ``target``, as people are told; None where it does not."""

    def require(self, target: str) -> None:
        """Raise BackendUnavailableError unless it is installed and builds for ``target``."""

    def check(self, model: bytes) -> None:
        """Raise BuildError if an operator of the ONNX ``model`` is refused: cheap, for the start of a long build."""

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        """Build an engine; ``progress`` counts per cent of the stage ``compile``.

        Raises:
            BackendUnavailableError: not installed, or not for this target.
            BuildError: the network was refused.
        """

    def open(self, engine: bytes, options: RunOptions) -> Runner:
        """A runner of an engine that it built.

        Raises:
            BackendUnavailableError: the library, or the device that it needs, is not there.
            DeviceError: the library refused the engine.
            ModelError: the engine is an ONNX that cannot be loaded.
        """
