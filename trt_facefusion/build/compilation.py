"""A plan and its typed graph -> an engine, and what its kernels prove."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.lowered_plan import LoweredPlan
from trt_facefusion.build.weak_typing import type_weakly
from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine
from trt_facefusion.engine.backends.kernels import Int8Coverage, find_int8_coverage
from trt_facefusion.errors import BuildError
from trt_facefusion.model.messages import hash_model, serialise_model
from trt_facefusion.types import Precision, Progress, silent


@dataclass(frozen=True)
class CompiledEngine:
    """An engine, and its planned INT8 nodes held against its kernels."""

    engine: BuiltEngine
    coverage: Int8Coverage

    @property
    def missing(self) -> tuple[str, ...]:
        """INT8 nodes that got no INT8 kernel, though others got one: accuracy was spent for nothing."""
        return tuple(self.coverage.missing) if self.engine.kernels_known and self.coverage.real > 0 else ()


def compile_plan(inputs: BuildInputs, lowered: LoweredPlan, progress: Progress | None = None) -> CompiledEngine:
    """Have the backend build what was lowered, and hold the plan against the kernels in its log.

    ``progress`` is told of it in place of the build's own, where this is a part of another stage.

    Raises:
        BuildError: the backend refused the network.
    """
    backend = inputs.job.selection.backend
    engine = backend.build(request_build(inputs, lowered), progress or inputs.reporter.progress)
    return _hold_against_plan(inputs, lowered, engine)


def _hold_against_plan(inputs: BuildInputs, lowered: LoweredPlan, engine: BuiltEngine) -> CompiledEngine:
    planned = {node.name: node.op for node in lowered.plan.nodes if node.precision is Precision.INT8}
    math_types = inputs.capabilities.math_types
    return CompiledEngine(engine, find_int8_coverage(planned, engine.kernels, math_types))


@dataclass
class CompiledKernels:
    """Engines that are compiled for what their kernels say: each once in a build, and kept without their bytes."""

    inputs: BuildInputs
    _engines: dict[str, BuiltEngine] = field(default_factory=dict)

    def compile(self, lowered: LoweredPlan) -> CompiledEngine:
        """What `compile_plan` gives, but for the engine's bytes.

        Raises:
            BuildError: the backend refused the network.
        """
        key = _compute_key(lowered)
        if key not in self._engines:
            self._engines[key] = replace(compile_plan(self.inputs, lowered, silent).engine, data=b"")
        return _hold_against_plan(self.inputs, lowered, self._engines[key])


def _compute_key(lowered: LoweredPlan) -> str:
    """Digest of what decides an engine within a build: the typed graph, and for one that types weakly the plan."""
    digest = hash_model(lowered.typed)
    digest.update("".join(f"{node.name}: {node.precision.value}; " for node in lowered.plan.nodes).encode())
    return digest.hexdigest()


def request_build(inputs: BuildInputs, lowered: LoweredPlan) -> BuildRequest:
    """What the backend is asked for: the typed graph, and the plan itself for one that types weakly."""
    settings, selection = inputs.settings, inputs.job.selection
    weak = type_weakly(inputs, lowered) if inputs.types_weakly else None
    return BuildRequest(
        serialise_model(lowered.typed),
        inputs.network.list_shapes(),
        selection.target,
        workspace_bytes=settings.workspace_bytes,
        weak=weak,
        options=replace(settings.options, timing_cache=settings.cache),
    )


def report_kernels(inputs: BuildInputs, compiled: CompiledEngine) -> None:
    """Warn of planned INT8 nodes without an INT8 kernel, and of what else a person should know of the engine.

    Raises:
        BuildError: a kernel is missing, and the build is strict.
    """
    engine, coverage = compiled.engine, compiled.coverage
    for note in (*engine.notes, *_list_changed_types(inputs)):
        inputs.reporter.warn(note)
    _report_left(inputs, engine)
    if not coverage.missing:
        return
    names = ", ".join(coverage.missing)
    if not engine.kernels_known:
        message = "the backend's log could not be read, so no INT8 kernel is proven"
    else:
        message = f"{len(coverage.missing)} of {coverage.planned} planned INT8 nodes are no INT8 kernel: {names}"
    if inputs.settings.strict:
        raise BuildError(message, "give these nodes fp16 in the plan (--plan), or leave --strict out")
    inputs.reporter.warn(message, Precision.INT8)


def _report_left(inputs: BuildInputs, engine: BuiltEngine) -> None:
    """Warn of nodes that the target's processor leaves to its CPU.

    Raises:
        BuildError: there are some, and the build is strict.
    """
    if not engine.left:
        return
    named = "; ".join(f"{node}: {reason}" for node, reason in engine.left.items())
    message = f"{len(engine.left)} nodes are left to the CPU of {engine.target}: {named}"
    if inputs.settings.strict:
        raise BuildError(message, "replace these operators before the export, or leave --strict out")
    inputs.reporter.warn(message)


def _list_changed_types(inputs: BuildInputs) -> list[str]:
    """What the engine takes or gives in another type than the file: TensorRT has no float64."""
    prepared, backend = inputs.network.prepared, inputs.job.selection.backend
    doubles = [spec.name for spec in (*prepared.inputs, *prepared.outputs) if spec.dtype == "float64"]
    if not doubles or backend.capabilities.float64:
        return []
    return [f"{backend.name} has no float64: {', '.join(doubles)} {'is' if len(doubles) == 1 else 'are'} float32 here"]
