"""Engines in a store: what is there already, what is built anew, and the fall-back INT8 -> FP16 -> FP32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trt_facefusion.build.engine import VerifiedEngine, build_precision
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.job import Job
from trt_facefusion.build.looks import LOOKS_WRONG
from trt_facefusion.build.manifest import describe_engine
from trt_facefusion.build.namesakes import tell_replaced
from trt_facefusion.build.report_data import SEARCH
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.verification import Verifier
from trt_facefusion.engine.store.manifest import Fallback, Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import BuildError, GateError
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.types import Precision

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


class Shelf:
    """The engines that this build may hand out: those of the store that are up to date, and those that it stored."""

    def __init__(self, job: Job, store: Store) -> None:
        self.job, self.store = job, store
        self.keys = {precision: job.key(precision) for precision in Precision}
        self.built: set[Precision] = set()
        self._engines: dict[Precision, tuple[Path, Manifest]] = {}

    def find(self, precision: Precision) -> tuple[Path, Manifest] | None:
        """The engine of ``precision``, if it was stored by this build, or earlier and is still what was asked for."""
        settings = self.job.settings
        if precision not in self._engines and not (settings.force or settings.recalibrate):
            stored = self.store.find(self.keys[precision])
            if stored is not None and not (settings.strict and not _is_proven(stored[1])):
                self._engines[precision] = stored
        return self._engines.get(precision)

    def find_for(self, requested: Precision) -> EngineResult | None:
        """The engine that was stored for this very request, fall-back included."""
        precision: Precision | None = requested
        while precision is not None:
            engine = self.find(precision)
            if engine is not None:
                chain = _chain_for(engine[1], requested, self.keys[requested])
                if precision is requested or (chain and not self.job.settings.strict):
                    return EngineResult(requested, *engine, chain, precision not in self.built)
            precision = precision.safer
        return None

    def store_engine(
        self, precision: Precision, manifest: Manifest, files: Mapping[str, bytes]
    ) -> tuple[Path, Manifest]:
        """Store an engine; whoever asks for ``precision`` from now on gets it."""
        folder = self.store.save(manifest, dict(files))
        self._engines[precision] = folder, self.store.load(folder)
        return self._engines[precision]


class FallbackChain:
    """What was tried for one request, and why it was not enough."""

    def __init__(self, job: Job, failed: dict[Precision, GateError | BuildError]) -> None:
        self.job, self.failed = job, failed
        self.steps: list[Fallback] = []

    def step_down(self, precision: Precision) -> Precision | None:
        """Record that ``precision`` failed, and say so; gives the next safer precision, None at the end."""
        error, safer = self.failed[precision], precision.safer
        self.steps.append(Fallback(precision.value, "none" if safer is None else safer.value, error.message))
        if safer is not None:
            self.job.reporter.warn(f"falling back {precision.value} -> {safer.value}: {error.message}", precision)
            self.job.reporter.note(f"to keep {precision.value}: {error.remedy}")
        return safer

    def record_in(self, manifest: Manifest) -> Manifest:
        """The manifest with the steps and the keys of what failed: another gate must be tried again."""
        keys = {step.from_: self.job.key(Precision(step.from_)) for step in self.steps}
        settings = {**manifest.inputs.settings, _FALLBACK_KEYS: keys}
        return replace(manifest, fallback=tuple(self.steps), inputs=replace(manifest.inputs, settings=settings))

    def logs(self) -> dict[str, bytes]:
        """What the backend said of the precisions that it could not build."""
        failed = [Precision(step.from_) for step in self.steps]
        logs = {p: error.log for p in failed if isinstance(error := self.failed[p], BuildError) and error.log}
        return {f"build-{p.value}.log": "\n".join(log).encode() for p, log in logs.items()}


class Delivery:
    """Delivers precisions of one model; engines that were built for one request serve the others."""

    def __init__(self, job: Job, store: Store) -> None:
        self.job = job
        self.shelf = Shelf(job, store)
        self.failed: dict[Precision, GateError | BuildError] = {}

    def deliver(self, requested: Precision, stages: Stages, verifier: Verifier) -> EngineResult:
        """Build ``requested``, or the next safer precision that is right.

        Raises:
            GateError, BuildError: not even FP32 is right; or, where the build is strict, the backend refused it.
        """
        chain = FallbackChain(self.job, self.failed)
        precision: Precision | None = requested
        while precision is not None:
            engine = self.shelf.find(precision)
            if engine is not None:
                return self._share(requested, precision, engine, chain)
            if precision not in self.failed:
                try:
                    built = build_precision(stages, verifier, precision)
                except (GateError, BuildError) as error:
                    if isinstance(error, BuildError) and self.job.settings.strict:
                        raise
                    self.failed[precision] = error
                else:
                    engine = self._store(stages.inputs, built, requested, chain)
                    return EngineResult(requested, *engine, tuple(chain.steps), False)
            precision = chain.step_down(precision)
        raise self._nothing_left()

    def _nothing_left(self) -> GateError | BuildError:
        last = self.failed[Precision.FP32]
        if isinstance(last, BuildError):
            return last
        return GateError(
            f"no engine of {self.job.settings.source.name} is right: {last.message}",
            "a network that fails in FP32 has a lowering or backend problem: try another --backend",
        )

    def _share(
        self, requested: Precision, precision: Precision, engine: tuple[Path, Manifest], chain: FallbackChain
    ) -> EngineResult:
        """An engine that is there answers another request as well, and records that it fell back to it."""
        folder, manifest = engine
        if chain.steps and tuple(chain.steps) != manifest.fallback:
            files = {name: (folder / name).read_bytes() for name in manifest.files} | chain.logs()
            engine = self.shelf.store_engine(precision, chain.record_in(manifest), files)
        return EngineResult(requested, *engine, tuple(chain.steps), False)

    def _store(
        self, inputs: BuildInputs, built: VerifiedEngine, requested: Precision, chain: FallbackChain
    ) -> tuple[Path, Manifest]:
        job = self.job
        job.require_unchanged()
        job.reporter.progress("store", 0, 0)
        plan_text = built.verified.plan.dumps().encode()
        manifest = chain.record_in(describe_engine(inputs, built, requested, plan_text))
        engine = built.compiled.engine
        files = {
            **inputs.network.contract.files(),
            f"engine.{job.selection.backend.suffix}": engine.data,
            "typed.onnx": serialise_model(built.verified.lowered.typed),
            "plan.yaml": plan_text,
            "build.log": "\n".join(engine.log_tail).encode(),
            **({} if built.search is None else {SEARCH: (json.dumps(built.search, indent=1) + "\n").encode()}),
            **chain.logs(),
        }
        tell_replaced(job, self.shelf.store, manifest)
        stored = self.shelf.store_engine(built.precision, manifest, files)
        self.shelf.built.add(built.precision)
        return stored


def _is_proven(manifest: Manifest) -> bool:
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
