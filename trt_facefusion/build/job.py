"""What is known of a build before anything is loaded or decoded: for whom, with which backend, from which bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.build.forms import parse_forms
from trt_facefusion.build.objective import Goal, choose_objective
from trt_facefusion.build.reporter import Note, Reporter, drop_note
from trt_facefusion.build.settings import FACTORS, BuildSettings, compute_engine_key
from trt_facefusion.engine.backends.registry import BackendSelection, default_target, select_backend
from trt_facefusion.engine.timing.factors import AT_THE_ROOF
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.errors import BackendUnavailableError, BadInputError, BuildError
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import require_limited, require_preferred
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.folder import digest_folder
from trt_facefusion.storage.files import read_regular
from trt_facefusion.types import Precision, Progress, silent

VALUES_OF = "values of "
"""How the digest of a file input's values is called: the preset only names the file."""

CONVERTER = "converter"
"""How the digest of the network that embeddings go through is called."""


@dataclass(frozen=True)
class Job:
    """One build, opened.

    ``digests`` are those of everything that goes in, the backend's version among them: with the settings they make the
    keys of engines. ``goal`` is what the plan search makes least of.
    """

    settings: BuildSettings
    reporter: Reporter
    selection: BackendSelection
    embedder: Embedder
    digests: Mapping[str, str]
    goal: Goal

    def compute_key(self, precision: Precision) -> str:
        """The key of the engine of ``precision``: equal key, equal engine."""
        return compute_engine_key(self.settings, self.digests, precision)

    def require_unchanged(self) -> None:
        """Raise `BadInputError` if the model or another file is no longer what this build's keys were made of."""
        now = digest_files(self.settings)
        changed = [name for name, digest in now.items() if digest != self.digests[name]]
        if changed:
            raise BadInputError(
                f"changed while the engine was being built: {', '.join(changed)}", "run the same command again"
            )


def open_job(settings: BuildSettings, progress: Progress = silent, note: Note | None = None) -> Job:
    """Select the backend and digest everything that goes in; costs little.

    Raises:
        BackendUnavailableError: the backend is missing, or does not build for the target.
        BadInputError, ModelError, FacesError: a file or folder cannot be read, nothing is known of the GPU, there is no
            such form of a graph, or the plan search cannot make least of what was asked for.
    """
    reporter = Reporter(progress, note or drop_note)
    if settings.gpu is not None:
        get_gpu(settings.gpu)
    parse_forms(settings.forms)
    selection = choose_backend(settings, reporter)
    require_capable(settings, selection)
    goal = choose_objective(settings, selection)
    embedder = settings.open_embedder()
    digests = digest_inputs(settings, selection, embedder, goal) | digest_metrics(settings)
    return Job(settings, reporter, selection, embedder, digests, goal)


def require_capable(settings: BuildSettings, selection: BackendSelection) -> None:
    """Refuse at once what the backend cannot do, whatever the network.

    Raises:
        BadInputError: a range of batches where engines have one shape.
        BuildError: a precision that the processor does not compute.
    """
    backend, batch = selection.backend, settings.batch
    if backend.capabilities.static_shapes and batch.min != batch.max:
        raise BadInputError(
            f"{backend.name} compiles engines for fixed shapes only, not for batches of {batch.min} to {batch.max}",
            f"build for one size (--batch {batch.opt}), and for others one engine each",
        )
    for precision in settings.precisions:
        require_precision(selection, precision)


def require_precision(selection: BackendSelection, precision: Precision) -> None:
    """Raise BuildError where the backend's processor does not compute ``precision``."""
    backend = selection.backend
    computed = [p.value for p in Precision if p in backend.capabilities.precisions]
    if precision.value not in computed:
        raise BuildError(
            f"{backend.name} builds no {precision.value}: the processor of {selection.target} has none",
            f"build {' or '.join(computed)} for it",
        )


def choose_backend(settings: BuildSettings, reporter: Reporter) -> BackendSelection:
    """The backend and the target; a person is told where it is not the one that was asked for.

    Raises:
        BackendUnavailableError: the target that was named needs what is not installed.
    """
    target = settings.target or default_target(settings.backend)
    selection = select_backend(settings.backend, target)
    if selection.target != target:
        if settings.target is not None:
            raise BackendUnavailableError(
                selection.reason, "install what is missing, or build for this machine's processor with --target cpu"
            )
        reporter.warn(selection.reason)
    return selection


def digest_inputs(
    settings: BuildSettings, selection: BackendSelection, embedder: Embedder, goal: Goal
) -> dict[str, str]:
    """Digests of everything that goes in, found without loading or decoding anything."""
    digests = digest_files(settings) | {"calib": _digest_folder(settings, settings.calib, embedder)}
    if settings.eval is not None:
        digests["eval"] = _digest_folder(settings, settings.eval, embedder)
    backend = selection.backend
    if backend.capabilities.fusion:
        digests["fusion"] = backend.capabilities.fusion.describe()
    if backend.capabilities.processor:
        digests["processor"] = backend.capabilities.processor
    if goal.factors != AT_THE_ROOF:
        digests[FACTORS] = f"{goal.factors}"
    return digests | {"backend": f"{backend.name} {backend.version()}", "target": selection.target}


def digest_metrics(settings: BuildSettings) -> dict[str, str]:
    """Digests of the files that limits are measured by: another network judges otherwise.

    Raises:
        BadInputError, ModelError: what measures for a limit, or the backbone that the user named, is missing.
    """
    tools = Tools(lpips_backbone=settings.lpips_backbone)
    require_preferred(tools)
    return {f"metric {name}": digest for name, digest in require_limited(settings.limits, tools).items()}


def digest_files(settings: BuildSettings) -> dict[str, str]:
    """Digests of the model and of the files that the user named."""
    digests = {"model": settings.source.digest()}
    files = [("plan", settings.plan), ("table", settings.table), (CONVERTER, settings.converter)]
    files += [(f"{VALUES_OF}{spec.name}", spec.path) for spec in settings.preset.files]
    for name, path in files:
        if path is not None:
            digests[name] = hashlib.sha256(read_regular(path)).hexdigest()
    return digests


def _digest_folder(settings: BuildSettings, folder: Path, embedder: Embedder) -> str:
    template, size = settings.preset.crops[0]
    return digest_folder(folder, template=template, size=size, embedder=embedder, aligned=settings.aligned)
