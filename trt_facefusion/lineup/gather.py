"""Builds every engine that can be built, takes those that are named, and lines them up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.engine.backends.base import Backend
from trt_facefusion.engine.backends.registry import BACKENDS, get_backend
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BackendUnavailableError, BuildError, DeviceError, GateError
from trt_facefusion.evaluation.profiling.machine import describe_processor
from trt_facefusion.evaluation.profiling.workload import PhotoSettings
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.lineup.entry import Entry, Lineup, LineupGallery
from trt_facefusion.lineup.measuring import TimingSettings, explain, measure_entries
from trt_facefusion.lineup.painting import paint_gallery
from trt_facefusion.lineup.published import GENERATORS, list_published
from trt_facefusion.types import Note, Precision, Progress, drop_note, silent

ORDER = (Precision.FP32, Precision.FP16, Precision.INT8)
"""From the most exact on, as tables show them."""
_ROW_ERRORS = (BackendUnavailableError, BuildError, GateError, DeviceError)
"""What makes a row without an engine; anything else, like a folder without faces, ends the comparison."""
_NO_DEVICE = "-"


@dataclass(frozen=True)
class LineupSettings:
    """What is compared.

    ``build`` holds everything but backend, target and precisions; ``backends`` are names, empty for all; ``engines``
    are stored ones that are not built here. ``shown_faces`` are painted for the page, 0 for none.
    """

    build: BuildSettings
    timing: TimingSettings
    backends: tuple[str, ...] = ()
    engines: tuple[Path, ...] = ()
    shown_faces: int = 0


def line_up(settings: LineupSettings, progress: Progress = silent, note: Note = drop_note) -> Lineup:
    """The comparison.

    Raises:
        TrtFaceFusionError: bad input, a name that is no backend's, a store that cannot be written. A backend that
            cannot build is an entry with its reason.
    """
    backends = [get_backend(name) for name in settings.backends] or list(BACKENDS)
    named = [describe_named(open_model(path)) for path in settings.engines]
    entries = [entry for backend in backends for entry in build_entries(settings.build, backend, progress, note)]
    entries = _remark_faces([*entries, *named])
    base = settings.build
    photos = PhotoSettings(base.eval or base.calib, base.aligned, base.embedder)
    entries, share = measure_entries(entries, settings.timing, progress)
    gallery = LineupGallery()
    if settings.shown_faces:
        gallery = paint_gallery(entries, photos, settings.shown_faces, progress, note)
    return Lineup(
        model=base.source.name,
        machine=describe_processor(settings.timing.threads),
        threads=settings.timing.threads,
        rounds=settings.timing.counts.rounds,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        entries=tuple(entries),
        processor_share=share,
        published=list_published(GENERATORS),
        gallery=gallery,
    )


def build_entries(base: BuildSettings, backend: Backend, progress: Progress, note: Note) -> list[Entry]:
    """FP32, FP16 and INT8 by one backend; where it cannot build at all, one entry for all of them."""
    target = choose_target(base, backend)
    if target is None:
        return [_refused(backend, _NO_DEVICE, "all", explain(find_no_target(backend)))]
    try:
        backend.require(target)
    except BackendUnavailableError as error:
        return [_refused(backend, target, "all", explain(error))]
    settings = replace(base, backend=backend.name, target=target, precisions=ORDER)
    note(f"{backend.name} for {target}")
    try:
        return [describe_built(result) for result in build(settings, progress, note).engines]
    except _ROW_ERRORS:  # one of them has no engine: the others may
        return list(_build_apart(settings, backend, progress, note))


def _build_apart(settings: BuildSettings, backend: Backend, progress: Progress, note: Note) -> Iterator[Entry]:
    for precision in settings.precisions:
        try:
            yield from map(describe_built, build(replace(settings, precisions=(precision,)), progress, note).engines)
        except _ROW_ERRORS as error:
            yield _refused(backend, settings.target or "", precision.value, explain(error))


def choose_target(base: BuildSettings, backend: Backend) -> str | None:
    """The target that the user named where ``backend`` builds for it, else the backend's own."""
    return base.target if base.target in backend.targets() else backend.default_target()


def find_no_target(backend: Backend) -> BackendUnavailableError:
    """Why ``backend`` has no target of its own here."""
    try:
        backend.version()
    except BackendUnavailableError as error:
        return error
    if backend.targets():
        return BackendUnavailableError(
            "No target was named that it builds for.", f"Name one with --target: {', '.join(backend.targets())}."
        )
    return BackendUnavailableError("This machine has no device for it.", "Run it where there is one.")


def _refused(backend: Backend, target: str, precision: str, reason: str) -> Entry:
    try:
        version = backend.version()
    except BackendUnavailableError:
        version = "not installed"
    return Entry(backend.name, version, target, precision, reason=reason)


def describe_built(result: EngineResult) -> Entry:
    """The entry of one engine of a build."""
    entry = _describe(result.folder, result.manifest, result.requested.value)
    fallen = tuple(f"{step.from_} fell back to {step.to}: {step.reason}" for step in result.fallback)
    return replace(entry, remarks=(*entry.remarks, *fallen))


def describe_named(model: OpenedModel) -> Entry:
    """The entry of an engine that the user named, as its manifest has it; an ONNX file has no figures."""
    if model.manifest is None:
        return Entry("onnxruntime", "", "cpu", "as it is", "as it is", folder=model.engine, remarks=("not judged",))
    entry = _describe(model.engine.parent, model.manifest, model.manifest.requested_precision)
    return replace(entry, remarks=(*entry.remarks, f"named: {model.engine.parent}"))


def _describe(folder: Path, manifest: Manifest, requested: str) -> Entry:
    judged, kernels = manifest.judged, manifest.int8_kernels
    effort = manifest.inputs.settings.get("effort")
    level = effort.get("level", "") if isinstance(effort, dict) else ""
    return Entry(
        backend=manifest.backend,
        version=manifest.backend_version,
        target=manifest.target,
        precision=requested,
        built=manifest.precision,
        folder=folder,
        weights_bytes=manifest.weights_bytes,
        engine_bytes=manifest.engine_bytes,
        activations_bytes=manifest.activations_bytes,
        figures=judged.figures,
        faces=judged.faces,
        judged_by=judged.judged_by,
        verified_with=manifest.verified_with,
        int8_share=manifest.macs_share.get(Precision.INT8.value),
        int8_kernels=f"{kernels.real}/{kernels.planned}" if kernels.planned else "-",
        seconds=manifest.seconds,
        effort=str(level),
        predicted=manifest.predicted,
        remarks=_list_remarks(manifest),
    )


def _list_remarks(manifest: Manifest) -> tuple[str, ...]:
    needs = ["needs calibration"] if manifest.calibration is not None else []
    return (*needs, *manifest.warnings)


def _remark_faces(entries: Sequence[Entry]) -> list[Entry]:
    """Remarks where not all engines were judged on the same faces."""
    digests = [_read_faces(entry) for entry in entries]
    first = next((digest for digest in digests if digest is not None), None)
    return [
        replace(entry, remarks=(*entry.remarks, "judged on other faces than the first engine"))
        if digest not in {None, first}
        else entry
        for entry, digest in zip(entries, digests, strict=True)
    ]


def _read_faces(entry: Entry) -> str | None:
    if entry.folder is None:
        return None
    manifest = open_model(entry.folder).manifest
    return None if manifest is None else manifest.inputs.evaluation_faces_sha256
