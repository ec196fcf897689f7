"""Models that share a name, and versions of one model: whose folder a build takes, and what it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trt_facefusion.build.job import Job
from trt_facefusion.engine.store.lock import build_lock
from trt_facefusion.engine.store.manifest import Manifest, make_safe_name
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import StoreError
from trt_facefusion.model.export import identify_origin


@contextmanager
def lock_model(job: Job) -> Iterator[Path]:
    """Hold the lock of the folder of the build's model, and give that folder; a person is told if a namesake has its
    own.

    Raises:
        StoreError: the folder cannot be written to.
    """
    folder = _find_folder(job)
    while True:
        with build_lock(folder, waiting=job.reporter.note):
            now = _find_folder(job)  # the build that held the lock may have been a namesake's
            if now == folder:
                _tell_namesake(job, folder)
                yield folder
                return
        folder = now


def tell_replaced(job: Job, store: Store, manifest: Manifest) -> None:
    """Name the engine that storing ``manifest`` replaces, unless it is the same one built again."""
    folder = store.folder_of(manifest)
    if not folder.is_dir():
        return
    try:
        old = store.load(folder)
    except StoreError:
        job.reporter.note(f"replaces {folder}, which is damaged")
        return
    if old.build_key == manifest.build_key:
        return
    same_file = old.inputs.model_sha256 == manifest.inputs.model_sha256
    why = "other settings, faces or versions" if same_file else f"the file as it was ({_shorten(old)})"
    job.reporter.note(f"replaces {folder}, which was built {'with' if same_file else 'from'} {why}")


def tell_stale(job: Job, store: Store) -> None:
    """Name the engines beside those of this build that were made from an earlier version of the model's file."""
    folder, digest = _find_folder(job), job.digests["model"]
    old = [
        f"{path.name} ({_shorten(manifest)})"
        for path, manifest in store.list()
        if path.parent == folder and isinstance(manifest, Manifest) and manifest.inputs.model_sha256 != digest
    ]
    if old:
        job.reporter.note(
            f"warning: still made from {job.settings.source.name} as it was before: {', '.join(old)} in {folder}; "
            "build these precisions again, or delete them"
        )


def _find_folder(job: Job) -> Path:
    source = job.settings.source
    return Store(job.settings.output).model_folder(source.name, job.digests["model"], identify_origin(source))


def _tell_namesake(job: Job, folder: Path) -> None:
    name = job.settings.source.name
    if folder.name != make_safe_name(name):
        job.reporter.note(
            f"{folder.with_name(make_safe_name(name))} is another model's of that name; this one's "
            f"({job.digests['model'][:8]}) engines are in {folder}"
        )


def _shorten(manifest: Manifest) -> str:
    return f"sha256 {manifest.inputs.model_sha256[:8]}"
