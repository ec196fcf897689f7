"""ONNX Runtime on the CPU: the portable backend. The typed ONNX is the engine."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, Kernel, RunOptions, TensorFormat
from trt_facefusion.engine.backends.capabilities import Capabilities, Judged, Library
from trt_facefusion.engine.backends.checks import load_checked
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.session import join_lines
from trt_facefusion.errors import BackendUnavailableError, BuildError, TrtFaceFusionError
from trt_facefusion.model.messages import LARGE, strip_weights
from trt_facefusion.model.sessions import make_session_options, open_from_builder, open_session
from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.types import Progress, silent

_DTYPES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}

_INTEGER_MATH = frozenset(
    {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"}
)
_FLOAT_MATH = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
)

# Where ONNX Runtime's integer operators keep their two factors among their inputs.
_FACTORS = {"QLinearConv": (0, 3), "QLinearMatMul": (0, 3), "QGemm": (0, 3)}

# The input whose type an operator's output has: the zero point of the output, else the scale; (0,) for all others.
_TYPE_GIVEN_BY = {
    "QuantizeLinear": (2,),
    "DequantizeLinear": (1,),
    "QLinearConv": (7,),
    "QLinearMatMul": (7,),
    "QGemm": (8, 1),
    "MatMulIntegerToFloat": (2,),
}
# What ONNX Runtime adds to the names of nodes and tensors that it moves, casts or changes the layout of, and what the
# lowering adds to those that store a node's result in parts.
_ADDED = re.compile(r"^InsertedPrecisionFreeCast_|(_token_\d+|_nchwc|__part\d+)+$")


class OnnxRuntime:
    """The backend ``onnxruntime``."""

    name = "onnxruntime"
    suffix = "onnx"
    library = Library("onnxruntime", "ONNX Runtime", ("onnxruntime", "onnxruntime-gpu"))
    capabilities = Capabilities(
        integer_results=True,
        folds_scales=False,
        float64=True,
        judged=Judged.TYPED_ONNX,
        needs_gpu=False,
        raises_missing=False,  # most of what is placed for GPUs runs in float here
        math_types=_INTEGER_MATH | _FLOAT_MATH,
        triton_platform="onnxruntime_onnx",
    )
    caution = ""

    def version(self) -> str:
        """Version of the library."""
        import onnxruntime as ort

        return str(ort.__version__)

    def targets(self) -> tuple[str, ...]:
        """Only ``cpu``."""
        return ("cpu",)

    def default_target(self) -> str:
        """Only ``cpu``."""
        return "cpu"

    def recommend(self, target: str) -> str | None:
        """For ``cpu``."""
        return "the target is the CPU" if target == "cpu" else None

    def require(self, target: str) -> None:
        """Raise BackendUnavailableError unless ``target`` is ``cpu``."""
        if target != "cpu":
            raise BackendUnavailableError(
                f"onnxruntime builds for the target cpu, not for {target!r}.",
                "Take --target cpu, or --backend tensorrt-rtx for a GPU target.",
            )

    def check(self, model: bytes) -> None:
        """Raise BuildError if ONNX Runtime cannot load ``model``."""
        with _refuse_failures():
            open_from_builder(lambda: load_checked(model), make_session_options())

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        """Load the typed ONNX and read from ONNX Runtime's own optimised graph which operators really run.

        Raises:
            BackendUnavailableError: the target is not ``cpu``.
            BuildError: ONNX Runtime refused the network.
        """
        self.require(request.target)
        started = time.monotonic()
        progress("compile", 0, 100)
        model = load_checked(request.model)
        optimised = _optimise(request.model)
        progress("compile", 100, 100)
        return BuiltEngine(
            data=request.model,
            backend=self.name,
            backend_version=self.version(),
            target=request.target,
            kernels=tuple(read_kernels(model, optimised)),
            kernels_known=True,
            engine_bytes=len(request.model),
            weights_bytes=count_weight_bytes(model),
            activations_bytes=None,
            seconds=time.monotonic() - started,
        )

    def open(self, engine: bytes, options: RunOptions) -> Runner:
        """A session on the CPU. Raises ModelError where ONNX Runtime cannot load the engine."""
        from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner

        return OnnxRuntimeRunner(engine, threads=options.threads)


def count_weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all weights of ``model`` in the types they are stored in (an INT8 weight is one byte)."""
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        tensors += [a.t for a in node.attribute if node.op_type == "Constant" and a.HasField("t")]
    return sum(_count_bytes(tensor) for tensor in tensors)


def _count_bytes(tensor: onnx.TensorProto) -> int:
    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _optimise(model: bytes) -> onnx.ModelProto:
    """The graph that ONNX Runtime really runs. Raises BuildError when it refuses the model."""
    with scratch_folder() as folder:
        path = Path(folder) / "optimised.onnx"
        options = make_session_options()
        options.optimized_model_filepath = str(path)
        with _refuse_failures():
            open_session(model, options)
            return onnx.load(path)
    raise AssertionError  # neither context manager swallows anything


@contextmanager
def _refuse_failures() -> Iterator[None]:
    try:
        yield
    except TrtFaceFusionError:
        raise
    except Exception as error:  # onnxruntime has a class of its own for each status code, with no common base
        raise BuildError(
            f"ONNX Runtime refused the network: {join_lines(error)}",
            "Replace the operator named here before the export, or keep the node in FP32 in the plan.",
        ) from error


def read_kernels(model: onnx.ModelProto, optimised: onnx.ModelProto) -> Iterator[Kernel]:
    """One kernel for each node of the optimised graph.

    A fused node keeps the name of its main node; where it does not, the output tensor tells whose place it took.
    """
    origins = {output: node.name for node in model.graph.node for output in node.output}
    origins |= {node.name: node.name for node in model.graph.node}
    constants = {tensor.name for tensor in optimised.graph.initializer}
    dtypes = _infer_types(optimised)
    for node in optimised.graph.node:
        names = (node.name, *node.output)
        made_from = [origins.get(_ADDED.sub("", name)) or origins.get(name) for name in names]
        factors = [node.input[i] for i in _FACTORS.get(node.op_type, (0, 1)) if i < len(node.input)]
        yield Kernel(
            name=node.name,
            type=node.op_type,
            nodes=tuple(dict.fromkeys(name for name in made_from if name)),
            inputs=_read_formats((name for name in factors if name not in constants), dtypes),
            constants=_read_formats((name for name in factors if name in constants), dtypes),
            outputs=_read_formats(node.output, dtypes),
        )


def _read_formats(names: Iterable[str], dtypes: dict[str, str]) -> tuple[TensorFormat, ...]:
    return tuple(TensorFormat(name, dtypes.get(name, "unknown")) for name in names if name)


def _infer_types(model: onnx.ModelProto) -> dict[str, str]:
    """Types of the tensors of an optimised graph, as far as they can be told.

    ONNX's inference stops at ONNX Runtime's own operators; a walk from the inputs on fills in what those give.
    """
    inferred = onnx.shape_inference.infer_shapes(strip_weights(model, LARGE)).graph
    types = {
        info_proto.name: _name_dtype(info_proto.type.tensor_type.elem_type)
        for info_proto in (*inferred.input, *inferred.value_info)
    }
    types |= {tensor.name: _name_dtype(tensor.data_type) for tensor in inferred.initializer}
    types |= {info_proto.name: _name_dtype(info_proto.type.tensor_type.elem_type) for info_proto in inferred.output}
    for node in inferred.node:
        for output in node.output:
            if types.get(output, "unknown") == "unknown":
                types[output] = _infer_result_type(node, types)
    return types


def _infer_result_type(node: onnx.NodeProto, types: dict[str, str]) -> str:
    def of_input(*places: int) -> str:
        names = (node.input[place] for place in places if place < len(node.input) and node.input[place])
        return next((types.get(name, "unknown") for name in names), "unknown")

    if node.op_type == "Cast":
        return next((_name_dtype(attribute.i) for attribute in node.attribute if attribute.name == "to"), "unknown")
    return of_input(*_TYPE_GIVEN_BY.get(node.op_type, (0,)))


def _name_dtype(elem_type: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(elem_type))
    return _DTYPES.get(name, "unknown" if name == "UNDEFINED" else name.lower())
