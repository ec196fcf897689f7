"""Which engines a build need not make: those of the store that are up to date, and what became of each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.build.job import Job
from trt_facefusion.build.looks import LOOKS_WRONG
from trt_facefusion.engine.store.manifest import Fallback, Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.types import Precision

FALLBACK_KEYS = "fallback_keys"
"""The setting in a manifest that holds the keys of the precisions that failed before it."""


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


class StoredEngines:
    """The engines that this build may hand out: those of the store that are up to date, and those that it stored."""

    def __init__(self, job: Job) -> None:
        self.job, self.store = job, Store(job.settings.output)
        self.keys = {precision: job.compute_key(precision) for precision in Precision}
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
                chain = _select_chain(engine[1], requested, self.keys[requested])
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


def _is_proven(manifest: Manifest) -> bool:
    """Whether no planned INT8 kernel is missing, and nothing was wrong with the network's own pictures."""
    kernels = manifest.int8_kernels
    if any(warning.startswith(LOOKS_WRONG) for warning in manifest.warnings):
        return False
    return not kernels.planned or (kernels.known and not kernels.missing)


def _select_chain(manifest: Manifest, requested: Precision, key: str) -> tuple[Fallback, ...]:
    """The part of an engine's fall-back record that starts at ``requested``; empty where it has another ``key``."""
    keys = manifest.inputs.settings.get(FALLBACK_KEYS)
    if not isinstance(keys, dict) or keys.get(requested.value) != key:
        return ()
    starts = [index for index, step in enumerate(manifest.fallback) if step.from_ == requested.value]
    return manifest.fallback[starts[0] :] if starts else ()
