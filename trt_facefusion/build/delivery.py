"""From a request to a stored engine: what is built anew, and the fall-back INT8 -> FP16 -> FP32."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from trt_facefusion.build.engine import VerifiedEngine, build_precision
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.job import Job
from trt_facefusion.build.manifest import describe_engine
from trt_facefusion.build.namesakes import tell_replaced
from trt_facefusion.build.run_record import SEARCH
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.stored_engines import FALLBACK_KEYS, EngineResult, StoredEngines
from trt_facefusion.build.verification import Verifier
from trt_facefusion.engine.store.manifest import Fallback, Manifest
from trt_facefusion.errors import BuildError, GateError
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.types import Precision


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
        keys = {step.from_: self.job.compute_key(Precision(step.from_)) for step in self.steps}
        settings = {**manifest.inputs.settings, FALLBACK_KEYS: keys}
        return replace(manifest, fallback=tuple(self.steps), inputs=replace(manifest.inputs, settings=settings))

    def collect_logs(self) -> dict[str, bytes]:
        """What the backend said of the precisions that it could not build."""
        failed = [Precision(step.from_) for step in self.steps]
        logs = {p: error.log for p in failed if isinstance(error := self.failed[p], BuildError) and error.log}
        return {f"build-{p.value}.log": "\n".join(log).encode() for p, log in logs.items()}


class Delivery:
    """Delivers precisions of one model; engines that were built for one request serve the others."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.engines = StoredEngines(job)
        self.failed: dict[Precision, GateError | BuildError] = {}

    def deliver(self, requested: Precision, stages: Stages, verifier: Verifier) -> EngineResult:
        """Build ``requested``, or the next safer precision that is right.

        Raises:
            GateError, BuildError: not even FP32 is right; or, where the build is strict, the backend refused it.
        """
        chain = FallbackChain(self.job, self.failed)
        precision: Precision | None = requested
        while precision is not None:
            engine = self.engines.find(precision)
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
        raise self._explain_failure()

    def _explain_failure(self) -> GateError | BuildError:
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
            files = {name: (folder / name).read_bytes() for name in manifest.files} | chain.collect_logs()
            engine = self.engines.store_engine(precision, chain.record_in(manifest), files)
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
            **chain.collect_logs(),
        }
        tell_replaced(job, self.engines.store, manifest)
        stored = self.engines.store_engine(built.precision, manifest, files)
        self.engines.built.add(built.precision)
        return stored
