"""`trt-ff build`: from a model and a folder of faces to stored engines, with the fall-back chain."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnxruntime

from trt_facefusion import __version__
from trt_facefusion.build.inputs import Context, Note
from trt_facefusion.build.looks import LOOKS_WRONG
from trt_facefusion.build.namesakes import lock_model, tell_replaced, tell_stale
from trt_facefusion.build.proof import Proof
from trt_facefusion.build.rebuild_command import build_arguments
from trt_facefusion.build.report_data import SEARCH, RunRecord, read_search, record_of
from trt_facefusion.build.settings import BuildSettings, engine_key
from trt_facefusion.build.stages import Attempts, Made
from trt_facefusion.engine.store.identity import ORIGIN
from trt_facefusion.engine.store.manifest import Fallback, Gate, Inputs, Int8Kernels, Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import BuildError, GateError
from trt_facefusion.evaluation.accuracy.registry import shown_figures
from trt_facefusion.model.export import identify_origin
from trt_facefusion.model.messages import is_one_piece, serialise_model
from trt_facefusion.quantization.precision import read_rows
from trt_facefusion.types import Precision, Progress, silent

_FALLBACK_KEYS = "fallback_keys"


@dataclass(frozen=True)
class EngineResult:
    """What became of one requested precision. ``fallback`` is empty when it was delivered as asked."""

    requested: Precision
    folder: Path
    manifest: Manifest
    fallback: tuple[Fallback, ...]
    up_to_date: bool

    @property
    def as_asked(self) -> bool:
        """Whether the precision that was asked for passed."""
        return not self.fallback


@dataclass(frozen=True)
class BuildResult:
    """All engines of one build, in the order of the request."""

    model: str
    seconds: float
    engines: tuple[EngineResult, ...]
    record: RunRecord | None = None
    """What the report shows; None where every engine was up to date."""
    cost: Mapping[str, Any] | None = None
    """What it was expected to cost, and how much it tried; None where every engine was up to date."""

    def as_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        return {
            "schema": 1,
            "model": self.model,
            "seconds": round(self.seconds, 2),
            "cost": None if self.cost is None else dict(self.cost),
            "engines": [_engine_dict(engine) for engine in self.engines],
        }


def _engine_dict(result: EngineResult) -> dict[str, Any]:
    m = result.manifest
    keys = ("faces", "ssim", *(figure.key for figure in shown_figures()))
    against = ("reference", "batch", "prepared")
    return {
        "precision": m.precision,
        "requested": result.requested.value,
        "backend": m.backend,
        "backend_version": m.backend_version,
        "target": m.target,
        "path": str(result.folder),
        "engine_bytes": m.engine_bytes,
        "weights_bytes": m.weights_bytes,
        "macs_share": dict(m.macs_share),
        "int8_kernels": {
            "planned": m.int8_kernels.planned,
            "real": m.int8_kernels.real,
            "missing": list(m.int8_kernels.missing),
        },
        "accuracy": {key: m.accuracy.get(key) for key in (*keys, *against)},
        "passed": m.gate.passed,
        "fallback": [{"from": f.from_, "to": f.to, "reason": f.reason} for f in result.fallback],
        "up_to_date": result.up_to_date,
    }


def build(settings: BuildSettings, progress: Progress = silent, note: Note | None = None) -> BuildResult:
    """Build every requested precision, falling back INT8 -> FP16 -> FP32 where the gate or the engine maker says no.

    Raises:
        TrtFaceFusionError: bad input, an engine maker that is missing, a store that cannot be written, or a chain that
            ended without any engine that is right.
    """
    started = time.perf_counter()
    context = Context(settings, progress, note or (lambda message: None))
    order = list(dict.fromkeys(settings.precisions))
    choice = context.choice  # fails before any work if the engine maker is missing
    keys = {precision: engine_key(settings, context.digests, precision) for precision in Precision}
    with lock_model(context):
        builder = _Builder(context, Store(settings.output), keys, choice.backend.version())
        engines = tuple(builder.deliver(precision) for precision in order)
        tell_stale(context, builder.store)
        seconds = time.perf_counter() - started
        record = _record(builder, engines, seconds) if builder.fresh else None
        cost = context.cost.as_dict() if builder.fresh else None
    return BuildResult(settings.source.name, seconds, engines, record, cost)


def _record(builder: _Builder, engines: tuple[EngineResult, ...], seconds: float) -> RunRecord:
    described = [
        {
            "requested": engine.requested.value,
            "up_to_date": engine.up_to_date,
            "folder": str(engine.folder),
            "manifest": json.loads(engine.manifest.to_json()),
            "plan": read_rows(engine.folder / "plan.yaml"),
            "search": read_search(engine.folder),
        }
        for engine in engines
    ]
    return record_of(builder.context, builder.attempts.ranges, builder.attempts.gallery, described, seconds)


class _Builder:
    """Delivers precisions of one model under its lock; engines made for one request serve the others."""

    def __init__(self, context: Context, store: Store, keys: dict[Precision, str], version: str) -> None:
        self.context = context
        self.store = store
        self.keys = keys
        self.version = version
        self.attempts = Attempts(context)
        self.anew = context.settings.force or context.settings.recalibrate
        self.made: dict[Precision, tuple[Path, Manifest]] = {}
        self.fresh: set[Precision] = set()
        self.failed: dict[Precision, GateError | BuildError] = {}

    def deliver(self, requested: Precision) -> EngineResult:
        """The engine for one request: stored, new, or the next in the fall-back chain."""
        found = self._stored(requested)
        if found is not None:
            return found
        steps: list[Fallback] = []
        precision: Precision | None = requested
        while precision is not None:
            if self._have(precision):
                return EngineResult(requested, *self._with_fallback(precision, steps), tuple(steps), False)
            if precision not in self.failed:
                self._check_once()
                try:
                    made = self._make(precision)
                except (GateError, BuildError) as error:
                    if isinstance(error, BuildError) and self.context.settings.strict:
                        raise
                    self.failed[precision] = error
                else:
                    self._save(made, precision, requested, steps)
                    return EngineResult(requested, *self.made[precision], tuple(steps), False)
            precision = self._step_down(precision, self.failed[precision], steps)
        raise self._nothing_left()

    def _nothing_left(self) -> GateError | BuildError:
        last = self.failed[Precision.FP32]
        if isinstance(last, BuildError):
            return last
        return GateError(
            f"no engine of {self.context.settings.source.name} is right: {last.message}",
            "a network that fails in FP32 has a lowering or engine maker problem: try another --backend",
        )

    def _step_down(
        self, precision: Precision, error: GateError | BuildError, steps: list[Fallback]
    ) -> Precision | None:
        safer, reason = precision.safer, error.message
        if safer is None:
            steps.append(Fallback(precision.value, "none", reason))
            return None
        steps.append(Fallback(precision.value, safer.value, reason))
        self.context.warn(f"falling back {precision.value} -> {safer.value}: {reason}", precision)
        self.context.note(f"to keep {precision.value}: {error.remedy}")
        return safer

    def _stored(self, requested: Precision) -> EngineResult | None:
        """The engine that an earlier build stored for this very request, fall-back included."""
        precision: Precision | None = requested
        while precision is not None:
            if self._have(precision):
                folder, manifest = self.made[precision]
                chain = _chain_for(manifest, requested, self.keys[requested])
                if precision is requested or (chain and not self.context.settings.strict):
                    return EngineResult(requested, folder, manifest, chain, precision not in self.fresh)
            precision = precision.safer
        return None

    def _have(self, precision: Precision) -> bool:
        """Whether the engine of ``precision`` was made by this build, or is stored and may be taken from there."""
        if precision in self.made or self.anew:
            return precision in self.made
        found = self.store.find(self.keys[precision])
        if found is None or (self.context.settings.strict and not _proven(found[1])):
            return False
        self.made[precision] = found
        return True

    def _check_once(self) -> None:
        """What can be told before the long part begins. A network that is refused as it is needs no fall-back."""
        if not self.fresh and not self.failed:
            self.attempts.check_files()
            if is_one_piece(self.context.prepared.model):  # else only smaller types can be built
                self.context.choice.backend.check(serialise_model(self.context.prepared.model))
            self.context.cost  # noqa: B018  # told before what takes long
            self.context.check_source()

    def _make(self, precision: Precision) -> tuple[Made, float]:
        started = time.perf_counter()
        return self.attempts.make(precision), time.perf_counter() - started

    def _with_fallback(self, precision: Precision, steps: list[Fallback]) -> tuple[Path, Manifest]:
        """Record that an engine made for one request also answers another that fell back to it."""
        folder, manifest = self.made[precision]
        if steps and tuple(steps) != manifest.fallback:
            files = {name: (folder / name).read_bytes() for name in manifest.files} | self._failed_logs(steps)
            manifest = self._recorded(manifest, steps)
            folder = self.store.save(manifest, files)
            self.made[precision] = folder, self.store.load(folder)
        return self.made[precision]

    def _failed_logs(self, steps: list[Fallback]) -> dict[str, bytes]:
        """What the engine maker said of the precisions that it could not build."""
        failed = [Precision(step.from_) for step in steps]
        logs = {p: error.log for p in failed if isinstance(error := self.failed[p], BuildError) and error.log}
        return {f"build-{p.value}.log": "\n".join(log).encode() for p, log in logs.items()}

    def _recorded(self, manifest: Manifest, steps: list[Fallback]) -> Manifest:
        """The manifest with ``steps`` and the keys of what failed: another gate must be tried again."""
        keys = {step.from_: self.keys[Precision(step.from_)] for step in steps}
        settings = {**manifest.inputs.settings, _FALLBACK_KEYS: keys}
        return replace(manifest, fallback=tuple(steps), inputs=replace(manifest.inputs, settings=settings))

    def _save(
        self, result: tuple[Made, float], precision: Precision, requested: Precision, steps: list[Fallback]
    ) -> None:
        made, seconds = result
        context = self.context
        context.require_unchanged()
        context.progress("store", 0, 0)
        plan_text = made.plan.dumps().encode()
        manifest = _manifest(self.attempts, made, precision, requested, self.keys[precision], plan_text)
        manifest = replace(manifest, seconds=seconds, warnings=context.warnings(precision))
        manifest = self._recorded(manifest, steps)
        files = {
            **context.contract.files(),
            f"engine.{context.choice.backend.suffix}": made.engine.data,
            "typed.onnx": serialise_model(made.typed),
            "plan.yaml": plan_text,
            "build.log": "\n".join(made.engine.log_tail).encode(),
            **({} if made.search is None else {SEARCH: (json.dumps(made.search, indent=1) + "\n").encode()}),
            **self._failed_logs(steps),
        }
        tell_replaced(context, self.store, manifest)
        folder = self.store.save(manifest, files)
        self.made[precision] = folder, self.store.load(folder)
        self.fresh.add(precision)


def _proven(manifest: Manifest) -> bool:
    """Whether no planned INT8 kernel is missing, and nothing was wrong with the network's own pictures."""
    kernels = manifest.int8_kernels
    if any(warning.startswith(LOOKS_WRONG) for warning in manifest.warnings):
        return False
    return not kernels.planned or (kernels.known and not kernels.missing)


def _chain_for(manifest: Manifest, requested: Precision, key: str) -> tuple[Fallback, ...]:
    """The part of an engine's fall-back record that starts at ``requested``; empty where it has another ``key``."""
    keys = manifest.inputs.settings.get(_FALLBACK_KEYS)
    if not isinstance(keys, dict) or keys.get(requested.value) != key:
        return ()
    starts = [index for index, step in enumerate(manifest.fallback) if step.from_ == requested.value]
    return manifest.fallback[starts[0] :] if starts else ()


def _calibration(attempts: Attempts) -> dict[str, object]:
    return {**attempts.ranges.record, **attempts.correcting.record, **attempts.storing.record}


def _accuracy(context: Context, made: Made) -> dict[str, Any]:
    """The engine against what was handed in, what that was, and what preparing it changed."""
    prepared = {**context.agreement.as_dict(), "limits": asdict(Proof(context).limits)}
    return {
        **made.accuracy.as_dict(),
        "reference": context.original.label,
        "batch": context.judged_batch,
        "prepared": prepared,
    }


def _manifest(
    attempts: Attempts, made: Made, precision: Precision, requested: Precision, key: str, plan_text: bytes
) -> Manifest:
    context = attempts.context
    s, choice = context.settings, context.choice
    coverage, engine = made.coverage, made.engine
    calib, held_out = context.faces
    needs_table = bool(made.plan.names(Precision.INT8))
    stand_in = "" if choice.backend.name == "onnxruntime" else ", standing in for the engine: same typed graph on a CPU"
    return Manifest(
        model=s.source.name,
        precision=precision.value,
        requested_precision=requested.value,
        backend=choice.backend.name,
        backend_version=engine.backend_version,
        target=choice.target,
        shapes=attempts.shapes(),
        inputs=Inputs(
            model_sha256=context.digests["model"],
            plan_sha256=hashlib.sha256(plan_text).hexdigest(),
            faces_sha256=calib.digest,
            evaluation_faces_sha256=held_out.digest,
            calibration_sha256=attempts.ranges.table_sha256 if needs_table else None,
            settings={
                ORIGIN: identify_origin(s.source),
                "preset": repr(s.preset),
                "batch": str(s.batch),
                "calibration": _calibration(attempts) if needs_table else {},
                "limits": attempts.gate(precision).as_dict(),
                "looks": context.look.as_dict(),
                **({} if s.noise is None else {"noise": {"fixed": s.noise, "nodes": list(context.original.fixed)}}),
                "effort": context.cost.record(),
                "repairs": [asdict(repair) for repair in made.repairs],
                **({} if made.recalibration is None else {"recalibration": made.recalibration}),
            },
        ),
        build_key=key,
        tool_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=0.0,
        engine_bytes=engine.engine_bytes,
        weights_bytes=engine.weights_bytes,
        activations_bytes=engine.activations_bytes,
        macs_share=made.plan.macs_share(),
        int8_kernels=Int8Kernels(coverage.planned, coverage.real, coverage.missing, engine.kernels_known),
        accuracy=_accuracy(context, made),
        gate=Gate(made.verdict.passed, made.verdict.reasons),
        verified_with=f"onnxruntime {onnxruntime.__version__}{stand_in}",
        kernels=engine.kernels,
        pins=engine.pins,
        command=build_arguments(replace(s, effort=context.level.name) if context.cost.cut else s),
    )
