"""Qualcomm's neural processor (HTP) in Snapdragon phones: compiled ahead of time by Qualcomm's own library, on a CPU.

The library comes with onnxruntime's execution provider for it (`onnxruntime-qnn`), and holds the compiler and a
simulator. What it takes is a lowered graph in which every tensor is quantised (`quantization.lowering.npu`), or one in
floats, which the processor computes in FP16. The engine is the small ONNX around the context binary, in one file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, RunOptions, ShapeRange
from trt_facefusion.engine.backends.capabilities import Capabilities, Judged, Library
from trt_facefusion.engine.backends.checks import load_checked
from trt_facefusion.engine.backends.chips import CHIPS, Chip, find_chip
from trt_facefusion.engine.backends.onnxruntime import count_weight_bytes
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.backends.qnn_trace import MATH_TYPES, TRACE, OpTrace, read_trace
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.qnn import (
    CONTEXT,
    QnnRunner,
    import_qnn,
    open_qnn_session,
    write_note,
)
from trt_facefusion.engine.runtime.session import join_lines
from trt_facefusion.errors import BackendUnavailableError, BuildError
from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.types import Precision, Progress, silent

_MOST_OPTIMISED = "3"
_COMPILED = "engine.onnx"
_REMEDY = "Replace the operator before the export, or build for another target (--target sm86, --target cpu)."


class Qnn:
    """The backend ``qnn``."""

    name = "qnn"
    suffix = "onnx"
    library = Library("onnxruntime_qnn", "onnxruntime-qnn", ("onnxruntime-qnn",), extra="qnn")
    capabilities = Capabilities(
        stores_all=True,
        static_shapes=True,
        precisions=frozenset({Precision.INT8, Precision.FP16}),
        judged=Judged.SIMULATED,
        needs_gpu=False,
        raises_missing=False,
        math_types=MATH_TYPES,
    )
    caution = (
        "no phone has run what it builds: engines are judged in Qualcomm's simulator, which says nothing of their speed"
    )

    def version(self) -> str:
        """Version of the library. Raises BackendUnavailableError when it is not installed."""
        return str(import_qnn().__version__)

    def targets(self) -> tuple[str, ...]:
        """The chips that something is known of."""
        return tuple(chip.target for chip in CHIPS)

    def default_target(self) -> None:
        """None: which phone it is for has to be said."""
        return

    def recommend(self, target: str) -> str | None:
        """For its chips, installed or not."""
        chip = find_chip(target)
        return None if chip is None else f"the target is the neural processor of the {chip.product}"

    def require(self, target: str) -> None:
        """Raise BackendUnavailableError unless it is installed and ``target`` is one of its chips."""
        _get_chip(target)
        import_qnn()

    def check(self, model: bytes) -> None:
        """Raise BuildError if ``model`` is not valid ONNX; what the processor takes of it shows when it is lowered."""
        load_checked(model)

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        """Compile a lowered graph for a chip; the compiler's trace says what became of every node.

        Raises:
            BackendUnavailableError: not installed, or an unknown chip.
            BuildError: the compiler refused the network, shapes are not fixed, or nothing in it is for the processor.
        """
        self.require(request.target)
        chip, started = _get_chip(request.target), time.monotonic()
        progress("compile", 0, 100)
        model = load_checked(request.model)
        _require_narrow(model)
        fix_shapes(model, request.shapes)
        compiled, trace = _compile(model, chip)
        note = write_note(compiled, chip.target, chip.soc_model, chip.htp_arch)
        content = compiled.SerializeToString()
        progress("compile", 100, 100)
        return BuiltEngine(
            data=content,
            backend=self.name,
            backend_version=self.version(),
            target=request.target,
            kernels=trace.kernels,
            kernels_known=True,
            engine_bytes=len(content),
            weights_bytes=count_weight_bytes(model),
            activations_bytes=None,
            seconds=time.monotonic() - started,
            log_tail=(f"{chip.product}: SoC model {chip.soc_model}, HTP v{chip.htp_arch}, compiler {note.sdk}",),
            left=trace.left,
            pins=Pins(chip=chip.target, htp_arch=chip.htp_arch, sdk=note.sdk),
        )

    def open(self, engine: bytes, options: RunOptions) -> Runner:
        """A runner in the simulator. Raises DeviceError where the engine is damaged or refused."""
        return QnnRunner(engine, options.threads, options.slots)


def _get_chip(target: str) -> Chip:
    chip = find_chip(target)
    if chip is None:
        chips = ", ".join(f"{known.target} ({known.product})" for known in CHIPS)
        raise BackendUnavailableError(f"qnn does not know the chip {target!r}.", f"Take --target with one of {chips}.")
    return chip


def _require_narrow(model: onnx.ModelProto) -> None:
    """Raise BuildError for a graph in FP32, which the processor does not compute."""
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if not quantised and TensorProto.FLOAT16 not in casts:
        raise BuildError("Qualcomm's processor has no FP32.", "Build INT8 or FP16 (--int8, --fp16) for it.")


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, ShapeRange]) -> None:
    """Write the one shape of every input into ``model``: the compiler takes no others.

    Raises:
        BuildError: a shape is a range, or is not known.
    """
    batch = None
    for port in model.graph.input:
        dimensions = port.type.tensor_type.shape.dim
        smallest, _, largest = shapes.get(port.name, ((), (), ()))
        open_axes = [axis for axis, size in enumerate(dimensions) if not size.HasField("dim_value")]
        if open_axes and (smallest != largest or len(smallest) != len(dimensions)):
            raise BuildError(
                f"The input {port.name!r} has no fixed shape, and Qualcomm's compiler takes no other.",
                "Build for one batch size, like --batch 1.",
            )
        for axis in open_axes:
            dimensions[axis].dim_value = smallest[axis]
            batch = smallest[axis]
    del model.graph.value_info[:]
    for port in model.graph.output:
        for size in port.type.tensor_type.shape.dim:
            if batch is not None and not size.HasField("dim_value"):
                size.dim_value = batch


def _compile(model: onnx.ModelProto, chip: Chip) -> tuple[onnx.ModelProto, OpTrace]:
    """The compiled ONNX and the trace; nothing is left on the disk."""
    with scratch_folder() as place:
        folder = Path(place)
        options = {
            "soc_model": str(chip.soc_model),
            "htp_arch": str(chip.htp_arch),
            "htp_graph_finalization_optimization_mode": _MOST_OPTIMISED,
            "enable_framework_op_trace": "1",
            "framework_op_trace_dir": str(folder),
        }
        entries = {
            "ep.context_enable": "1",
            "ep.context_embed_mode": "1",
            "ep.context_file_path": str(folder / _COMPILED),
        }
        try:
            open_qnn_session(model.SerializeToString(), options, entries)
        except BackendUnavailableError:
            raise
        except Exception as error:  # onnxruntime has a class of its own for each status code, with no common base
            raise BuildError(f"Qualcomm's compiler refused the network: {join_lines(error)}", _REMEDY) from error
        path = folder / _COMPILED
        compiled = onnx.load(path) if path.is_file() else onnx.ModelProto()
        if not any(node.op_type == CONTEXT for node in compiled.graph.node):
            raise BuildError(f"Qualcomm's processor takes no node of the network ({_list_operators(model)}).", _REMEDY)
        return compiled, _read_trace(folder, model)
    raise AssertionError  # the context manager swallows nothing


def _read_trace(folder: Path, model: onnx.ModelProto) -> OpTrace:
    try:
        return read_trace((folder / TRACE).read_text(encoding="utf-8"), model)
    except OSError as error:
        raise BuildError(
            f"Qualcomm's compiler wrote no trace of the nodes: {error.strerror or error}",
            "Check that the folder for temporary files (TMPDIR) can be written to and has room.",
        ) from error


def _list_operators(model: onnx.ModelProto) -> str:
    return ", ".join(sorted({node.op_type for node in model.graph.node} - {"QuantizeLinear", "DequantizeLinear"}))
