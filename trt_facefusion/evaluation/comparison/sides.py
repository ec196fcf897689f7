"""Models that run on this machine to be compared, and the batch size that two of them take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from trt_facefusion.engine.runtime.base import Runner, StatesShapes
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BackendUnavailableError, BadInputError
from trt_facefusion.inference.feeder import BATCH
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.inference.type_adapter import TypeAdapter
from trt_facefusion.model.presets import Preset
from trt_facefusion.model.presets.fit import find_fixed_batch, fit_inputs
from trt_facefusion.types import TensorSpec

STAND_IN, GPU, CPU = "stand-in", "gpu", "onnxruntime"


@dataclass(frozen=True)
class RunnableModel:
    """An opened model that runs; ``ran`` says what runs: the engine on the GPU, a library on the CPU, or a stand-in."""

    opened: OpenedModel
    runner: Runner
    ran: str
    missing: str = ""
    """Why the engine itself could not be run, where a stand-in was not asked for."""

    def as_dict(self) -> dict[str, Any]:
        """What the JSON output says of it."""
        path = self.opened.engine if self.ran != STAND_IN else self.opened.graph
        return {"name": self.opened.label, "path": str(path), "ran": self.ran}

    def adapt_runner(self, takes: Sequence[TensorSpec]) -> Runner:
        """Its runner, which takes inputs of the types of ``takes``."""
        same = {spec.name: spec.dtype for spec in takes} == {spec.name: spec.dtype for spec in self.runner.inputs}
        return self.runner if same else TypeAdapter(self.runner, takes)


def open_runnable(opened: OpenedModel, stack: ExitStack, *, stand_in: bool | None, device: int) -> RunnableModel:
    """Run ``opened`` until ``stack`` ends.

    ``stand_in`` True computes what a GPU would on the CPU, from the typed ONNX; None does so where there is no GPU.

    Raises:
        BackendUnavailableError: ``stand_in`` is False, and there is no GPU, no pycuda or no TensorRT.
        TrtFaceFusionError: what opening the engine or the model raises.
    """
    if not opened.needs_gpu:
        imitated = bool(stand_in) and opened.manifest is None
        runner: Runner = OnnxRuntimeRunner(opened.graph, stand_in=True) if imitated else opened.open_runner()
        return RunnableModel(opened, stack.enter_context(runner), STAND_IN if imitated else _name_library(opened))
    missing = ""
    if not stand_in:
        try:
            return RunnableModel(opened, stack.enter_context(opened.open_runner(slots=1, device=device)), GPU)
        except BackendUnavailableError as error:
            if stand_in is False:
                raise
            missing = error.message.rstrip(".")
    return RunnableModel(opened, stack.enter_context(opened.open_runner(stand_in=True)), STAND_IN, missing)


def _name_library(opened: OpenedModel) -> str:
    """What runs a model on the CPU: its backend, and onnxruntime where it is an ONNX file."""
    return CPU if opened.backend is None else opened.backend.name


def require_fitting_inputs(model: RunnableModel, preset: Preset, embedding: int) -> None:
    """Hold the inputs of one model against what it will be fed; ``embedding`` is the length of the embedder's vectors.

    Raises:
        BadInputError: other names, types or sizes.
    """
    try:
        fit_inputs(preset, model.runner.inputs, embedding)
    except BadInputError as error:
        raise BadInputError(
            f"{model.opened.label}: {error.message}",
            f"compare two engines of one model, or correct --preset, --input or --embedder: {error.remedy}",
        ) from error


@dataclass(frozen=True)
class BatchSize:
    """Samples that both models take at once; ``fixed`` where fewer must be filled up."""

    size: int
    fixed: bool


def choose_batch_size(a: RunnableModel, b: RunnableModel, preset: Preset, embedding: int) -> BatchSize:
    """The batch size for both: that which the engines were built for (B's, since it is judged, else A's).

    ``preset`` and ``embedding`` as for `require_fitting_inputs`.

    Raises:
        BadInputError: there is none that both take.
    """
    ranges = [_find_batch_range(model, preset, embedding) for model in (a, b)]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if low > high:
        texts = [f"{s.opened.label} takes {r[0]} to {r[1]}" for s, r in zip((a, b), ranges, strict=True)]
        raise BadInputError(
            f"no batch size fits both: {', '.join(texts)} faces at once", "build both engines with the same --batch"
        )
    usual = (_find_built_batch(model, preset, embedding) for model in (b, a))
    built = next((size for size in usual if size is not None), None)
    size = max(low, min(built or BATCH, high))
    return BatchSize(size, low > 1 or low == high or (built or 1) > 1)


def _find_built_batch(model: RunnableModel, preset: Preset, embedding: int) -> int | None:
    """The batch that a stored engine is built for; None for a file, and where no input has a batch axis."""
    fits = fit_inputs(preset, model.runner.inputs, embedding)
    shapes = {} if model.opened.manifest is None else model.opened.manifest.shapes
    return next((shapes[name][1][0] for name, fit in fits.items() if fit.batched and name in shapes), None)


def _find_batch_range(model: RunnableModel, preset: Preset, embedding: int) -> tuple[int, int]:
    takes = model.runner.inputs
    fits = fit_inputs(preset, takes, embedding)
    fixed = find_fixed_batch(preset, takes, fits)
    if fixed is not None:
        return fixed, fixed
    manifest = model.opened.manifest
    if not isinstance(model.runner, StatesShapes) or manifest is None or not manifest.shapes:
        return 1, 1 << 30
    smallest, _, largest = manifest.shapes[next(name for name, fit in fits.items() if fit.batched)]
    return smallest[0], largest[0]
