"""What backends differ in, as data: whoever needs to know asks for a field here, and never for a backend's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from trt_facefusion.quantization.lowering import FusionRules
from trt_facefusion.types import Precision


class Typing(Enum):
    """Who decides the type that a layer computes in."""

    STRONG = "strong"
    """The typed ONNX does: every cast and Q/DQ is in the graph."""
    WEAK = "weak"
    """The library may: the backend also takes ``BuildRequest.weak``, the plan in place of the typed ONNX."""


class Judged(Enum):
    """What is run on the processor of the machine that builds, to see whether an engine is right."""

    TYPED_ONNX = "typed onnx"
    """The engine is the typed ONNX, and onnxruntime runs it."""
    ENGINE = "engine"
    """The engine: it is built first, and runs on that processor."""
    SIMULATED = "simulated"
    """A few faces by the engine in its library's simulator, which takes its time; the others by the typed ONNX in
    onnxruntime, which is held against the simulator on those few."""
    STAND_IN = "stand-in"
    """The typed ONNX in onnxruntime, with FP16 rounding, in place of an engine that runs elsewhere."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, and what it asks of a build. The defaults are those of a strongly typed GPU compiler.

    Attributes:
        typing: whether it builds the typed ONNX only, or takes ``BuildRequest.weak`` where it is given.
        integer_results: INT8 layers are lowered to integer operators with quantised results, as a CPU wants them;
            otherwise to Q/DQ with float results.
        stores_all: its processor works on integers: every tensor between operators is lowered to a quantised one of 16
            or 8 bits, and all layers that can be have weights of 8; otherwise results are floats.
        static_shapes: its engines have one shape only; otherwise they take a range of batches.
        precisions: what its processor computes; an engine of another is refused before anything is read.
        folds_scales: scales of channels may be part of what makes a tensor; otherwise ranges of more tensors than INT8
            reads would have to follow, such as those of results that are kept in integers.
        unfolded_majors: major versions of the library that need those ranges, too, unlike the others.
        pads_with_zero_points: activations may have a zero point (uint8), with which convolutions pad; otherwise their
            scales are symmetric, and what shifts channels pads in front of that.
        compiles_in_seconds: the plan search may build once to see which layers get an INT8 kernel.
        float64: its engines take and give float64; others take and give float32 in its place.
        judged: what verification runs.
        needs_gpu: its engines run on a GPU only, of the kind and with the library's version that their pins name.
        needs_device: it builds only on a machine that has the GPU of the target.
        raises_missing: a planned INT8 layer without an INT8 kernel bought nothing, and is raised to FP16.
        calibrating_majors: major versions of the library that can make a calibration table of their own.
        processor: what its engines are compiled for, where the target does not tell; part of an engine's key.
        adds_pairs_in_16_bits: its kernels add the products of two neighbouring input channels in 16 bits, which
            saturate: INT8 weights are scaled so that no pair of them does (`grid.find_pair_peaks`).
        transposes_in_int8: it has INT8 kernels for transposed convolutions.
        quantises_before_pads: it moves integers through a Pad, so that quantisers stand in front of it.
        math_types: the types (`Kernel.type`) of its kernels that multiply and add; all others move, scale or round.
        fusion: the forms of a typed ONNX that its compiler fuses best, as measured on its kernels.
        triton_platform: Triton's name of what loads its engines there; empty where nothing does.
    """

    typing: Typing = Typing.STRONG
    integer_results: bool = False
    stores_all: bool = False
    static_shapes: bool = False
    precisions: frozenset[Precision] = frozenset(Precision)
    folds_scales: bool = True
    pads_with_zero_points: bool = False
    compiles_in_seconds: bool = False
    float64: bool = False
    judged: Judged = Judged.STAND_IN
    needs_gpu: bool = True
    needs_device: bool = False
    raises_missing: bool = True
    calibrating_majors: tuple[int, ...] = ()
    unfolded_majors: tuple[int, ...] = ()
    processor: str = ""
    adds_pairs_in_16_bits: bool = False
    transposes_in_int8: bool = False
    quantises_before_pads: bool = False
    math_types: frozenset[str] = frozenset()
    fusion: FusionRules = field(default_factory=FusionRules)
    triton_platform: str = ""


@dataclass(frozen=True)
class Library:
    """The library that builds and loads a backend's engines.

    Attributes:
        module: the Python module, which has a ``__version__``.
        product: the name that people know it by.
        distributions: what it is called on a package index; `trt-ff doctor` shows these.
        extra: the extra of pyproject.toml that installs it; empty where it is always installed.
        cuda_wheels: there are distributions for one CUDA version each, named ``DISTRIBUTION-cuNN``.
    """

    module: str
    product: str
    distributions: tuple[str, ...]
    extra: str = ""
    cuda_wheels: bool = False
