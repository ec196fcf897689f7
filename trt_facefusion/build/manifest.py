"""What the manifest of an engine says: everything that went in, what came out, how right it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

import onnxruntime

from trt_facefusion import __version__
from trt_facefusion.build.engine import VerifiedEngine
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.rebuild_command import write_arguments
from trt_facefusion.build.simulation import Simulation
from trt_facefusion.build.time_model import predict_time
from trt_facefusion.engine.backends.base import Backend
from trt_facefusion.engine.backends.capabilities import Judged
from trt_facefusion.engine.store.identity import ORIGIN
from trt_facefusion.engine.store.manifest import SIMULATED, EngineInputs, GateResult, Int8Kernels, Manifest
from trt_facefusion.model.export import identify_origin
from trt_facefusion.types import Precision


def describe_engine(inputs: BuildInputs, built: VerifiedEngine, requested: Precision, plan_text: bytes) -> Manifest:
    """The manifest of one engine, but for its fall-back record."""
    settings, selection = inputs.settings, inputs.job.selection
    engine, coverage, plan = built.compiled.engine, built.compiled.coverage, built.verified.plan
    as_run = replace(settings, effort=inputs.level.name) if inputs.cost.cut else settings
    return Manifest(
        model=settings.source.name,
        precision=built.precision.value,
        requested_precision=requested.value,
        backend=selection.backend.name,
        backend_version=engine.backend_version,
        target=selection.target,
        shapes=inputs.network.list_shapes(),
        inputs=_describe_inputs(inputs, built, plan_text),
        build_key=inputs.job.compute_key(built.precision),
        tool_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=built.seconds,
        engine_bytes=engine.engine_bytes,
        weights_bytes=engine.weights_bytes,
        activations_bytes=engine.activations_bytes,
        predicted=predict_time(inputs.job, engine.kernels, engine.pins.device),
        macs_share=plan.macs_share(),
        int8_kernels=Int8Kernels(coverage.planned, coverage.real, coverage.missing, engine.kernels_known),
        accuracy=_describe_accuracy(inputs, built),
        gate=GateResult(built.verified.verdict.passed, built.verified.verdict.reasons),
        verified_with=_name_verifier(selection.backend, engine.backend_version, built.verified.simulation),
        kernels=engine.kernels,
        pins=engine.pins,
        command=write_arguments(as_run),
        warnings=inputs.reporter.list_warnings(built.precision),
    )


def _name_verifier(backend: Backend, version: str, simulation: Simulation | None) -> str:
    """What computed the pictures that the engine was judged by."""
    if simulation is not None:
        rest = simulation.judged - len(simulation.faces)
        return (
            f"the simulator of {backend.name} {version} on {len(simulation.faces)} faces, onnxruntime "
            f"{onnxruntime.__version__} standing in for it on {rest}: same typed graph on a CPU"
        )
    if backend.capabilities.judged is Judged.ENGINE:
        return f"{backend.name} {version}"
    stand_in = backend.capabilities.judged is Judged.STAND_IN
    suffix = ", standing in for the engine: same typed graph on a CPU" if stand_in else ""
    return f"onnxruntime {onnxruntime.__version__}{suffix}"


def _describe_inputs(inputs: BuildInputs, built: VerifiedEngine, plan_text: bytes) -> EngineInputs:
    settings, network, faces = inputs.settings, inputs.network, inputs.faces
    return EngineInputs(
        model_sha256=inputs.job.digests["model"],
        plan_sha256=hashlib.sha256(plan_text).hexdigest(),
        faces_sha256=faces.calibration.digest,
        evaluation_faces_sha256=faces.verification.digest,
        calibration_sha256=built.table_sha256,
        settings={
            ORIGIN: identify_origin(settings.source),
            "preset": repr(settings.preset),
            "batch": str(settings.batch),
            "calibration": dict(built.calibration),
            "limits": built.gate.as_dict(),
            "looks": inputs.proof.look.as_dict(),
            **_describe_noise(settings.noise, network.original.fixed_nodes),
            "effort": inputs.cost.record(),
            "repairs": [asdict(repair) for repair in built.verified.repairs],
            **({} if built.recalibration is None else {"recalibration": built.recalibration}),
        },
    )


def _describe_noise(noise: str | None, nodes: tuple[str, ...]) -> dict[str, Any]:
    return {} if noise is None else {"noise": {"fixed": noise, "nodes": list(nodes)}}


def _describe_accuracy(inputs: BuildInputs, built: VerifiedEngine) -> Mapping[str, Any]:
    """The engine against what was handed in, what that was, and what preparing it changed."""
    return {
        **built.verified.accuracy.as_dict(),
        **({} if built.verified.simulation is None else {SIMULATED: built.verified.simulation.as_dict()}),
        "reference": inputs.network.original.label,
        "batch": inputs.network.judged_batch,
        "prepared": {**inputs.proof.agreement.as_dict(), "limits": asdict(inputs.proof.limits)},
    }
