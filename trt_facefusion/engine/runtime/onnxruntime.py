"""Runs ONNX models on the CPU with ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from trt_facefusion.engine.runtime.half import round_to_fp16
from trt_facefusion.engine.runtime.in_flight import require_slots
from trt_facefusion.engine.runtime.session import SessionRunner, join_lines
from trt_facefusion.errors import BuildError, ModelError, TrtFaceFusionError
from trt_facefusion.model.sessions import make_session_options, open_from_builder, open_session

OPTIMISED = "optimised.onnx"
_NODE_IN_ERROR = (r"Name:'([^']+)'", r"[Nn]ode \(([^()]+)\)", r"[Nn]ode:\s*'?([^'\s]+)'?", r"node with name '([^']+)'")
"""How onnxruntime names a node, when it runs and when it loads a model."""


class OnnxRuntimeRunner(SessionRunner):
    """Runs a model that is given as bytes, as a file, or in memory.

    Args:
        model: the model; a file may have its weights beside it. What makes a model is called once, and the model
            let go of before ONNX Runtime loads it.
        threads: CPU threads; None leaves it to ONNX Runtime.
        optimise: let ONNX Runtime fuse operators.
        stand_in: compute what a GPU engine of this typed model computes: FP16 is rounded (see ``half``), and Q/DQ is
            not fused into integer operators (some CPUs saturate in those). Slower than a plain run.
        slots: inferences that ``infer_async`` and ``map`` take at once, at least one; they run one after the other.
        trace: a folder for ONNX Runtime's own profile of every run, and for the graph that it made of the model
            (``OPTIMISED``); see `end_trace`. Slower than a plain run, too.
        ours: what the graph is called where this tool made it ("the lowered graph"): then its failures are a
            `BuildError` that names the node, and nobody is told to export their file again.
        weights: the folder of the external weights of a model that is given as bytes.

    Raises:
        BadInputError: ``slots`` is below 1.
        ModelError: ONNX Runtime cannot load the model.
        BuildError: ONNX Runtime cannot load a graph that is ``ours``.
    """

    def __init__(
        self,
        model: bytes | Path | onnx.ModelProto | Callable[[], onnx.ModelProto],
        threads: int | None = None,
        optimise: bool = True,
        stand_in: bool = False,
        slots: int = 2,
        trace: Path | None = None,
        ours: str = "",
        weights: Path | None = None,
    ) -> None:
        require_slots(slots)
        self._ours = ours
        options = make_session_options(threads)
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        if stand_in:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if weights is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace / "trace")
            options.optimized_model_filepath = str(trace / OPTIMISED)
        try:
            session = _open_runner_session(_make_rounding(model) if stand_in else model, options)
        except ModelError as error:
            if ours:
                raise own_fault(ours, error.__cause__ or error) from error
            raise
        super().__init__(session, slots)

    def explain_failure(self, error: Exception) -> Exception:
        """A ModelError, or a BuildError where the graph is ours."""
        if self._ours:
            return own_fault(self._ours, error)
        return ModelError(
            f"ONNX Runtime failed inside the model: {join_lines(error)}",
            "Check the values that it is fed (--input NAME=value:... and NAME=file:... first), or export it again.",
        )

    def end_trace(self) -> Path:
        """End the profile that ``trace`` asked for; gives its file."""
        return Path(self._session.end_profiling())


def _make_rounding(
    model: bytes | Path | onnx.ModelProto | Callable[[], onnx.ModelProto],
) -> Callable[[], onnx.ModelProto]:
    return lambda: round_to_fp16(model() if callable(model) else _load(model))


def _open_runner_session(model: bytes | Path | onnx.ModelProto | Callable[[], onnx.ModelProto], options: Any) -> Any:
    try:
        return open_from_builder(model, options) if callable(model) else open_session(model, options)
    except TrtFaceFusionError:
        raise
    except Exception as error:  # onnxruntime's classes have no common base
        raise _explain_load_failure(error) from error


def own_fault(called: str, error: BaseException) -> BuildError:
    """The error for a graph of our own making that onnxruntime cannot load or run; names the node if it was named."""
    text = join_lines(error)
    node = next((name for pattern in _NODE_IN_ERROR for name in re.findall(pattern, text)), "")
    where = f" at the node {node!r}" if node else ""
    keep = f"give {node} more precision in the plan (--plan), and report this" if node else "report this"
    return BuildError(
        f"{called} fails in ONNX Runtime{where}: {text}",
        f"the fault is in what this tool made of the network, not in your file: {keep} with the file",
    )


def _load(model: bytes | Path | onnx.ModelProto) -> onnx.ModelProto:
    try:
        if isinstance(model, onnx.ModelProto):
            return model
        return onnx.load(model) if isinstance(model, Path) else onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's DecodeError, OSError, and onnx's checker for external data
        raise _explain_load_failure(error) from error


def _explain_load_failure(error: Exception) -> ModelError:
    return ModelError(
        f"ONNX Runtime cannot load the model: {join_lines(error)}",
        "Check that the file is whole, with its weights beside it, or export it again.",
    )
