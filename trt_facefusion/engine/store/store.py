"""Engines on the disk: ``<root>/<model>/<precision>-<target>-<backend>-<backend version>/``."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path

from trt_facefusion.engine.store.atomic import commit_folder, make_store_error, sweep, write_synced
from trt_facefusion.engine.store.identity import ORIGIN, model_folder
from trt_facefusion.engine.store.lock import build_lock, try_lock
from trt_facefusion.engine.store.manifest import Manifest, StoredFile, make_safe_name
from trt_facefusion.errors import StoreError
from trt_facefusion.storage.documents import DocumentError, read_bytes

MANIFEST = "manifest.json"
__all__ = ["MANIFEST", "Store", "compute_sha256", "damaged", "make_safe_name"]


def compute_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file. Raises StoreError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise make_store_error(error, path, "read") from error
    return digest.hexdigest()


class Store:
    """The engines under ``root``. Opening it clears away what killed builds left; it makes no folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.is_dir():
            sweep(root, try_lock)

    def model_folder(self, name: str, digest: str, origin: str | None = None) -> Path:
        """The folder of a model's engines, whether it exists or not (see `identity.model_folder`)."""
        entries = [(path, entry if isinstance(entry, Manifest) else None) for path, entry in self.list()]
        return model_folder(self.root, name, digest, origin, entries)

    def folder_of(self, manifest: Manifest) -> Path:
        """The folder of the engine that ``manifest`` describes, whether it exists or not."""
        m = manifest
        origin = m.inputs.settings.get(ORIGIN)
        folder = self.model_folder(m.model, m.inputs.model_sha256, origin if isinstance(origin, str) else None)
        return folder / "-".join(make_safe_name(part) for part in (m.precision, m.target, m.backend, m.backend_version))

    def save(self, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
        """Write an engine folder whole, replacing the one that was there, and give its path.

        Args:
            manifest: its ``files`` are filled in from ``files``.
            files: name -> content (``engine.<suffix>``, ``typed.onnx``, ``plan.yaml``, a log).

        Raises:
            StoreError: the folder cannot be written; what was there before is as it was.
        """
        for name in files:
            if name != make_safe_name(name) or name == MANIFEST:
                raise ValueError(f"{name!r} is no name for a file of an engine folder")
        stored = {n: StoredFile(hashlib.sha256(content).hexdigest(), len(content)) for n, content in files.items()}
        manifest = dataclasses.replace(manifest, files=stored)
        text = manifest.to_json()
        Manifest.from_json(text)  # what could not be read back is not written
        final = self.folder_of(manifest)
        with build_lock(final), commit_folder(final) as folder:
            for name, content in files.items():
                write_synced(folder / name, content)
            write_synced(folder / MANIFEST, text.encode())
        return final

    def load(self, folder: Path) -> Manifest:
        """Read the manifest of an engine folder and check every file against its digest.

        Raises:
            StoreError: no engine there, or a file is missing or damaged.
        """
        manifest = self._read(folder)
        for name, file in manifest.files.items():
            if compute_sha256(folder / name) != file.sha256:
                raise damaged(folder / name, manifest, "its content is not what was stored")
        return manifest

    def find(self, build_key: str) -> tuple[Path, Manifest] | None:
        """The stored engine of that build key, if all its files are intact."""
        for folder, manifest in self.list():
            if isinstance(manifest, Manifest) and manifest.build_key == build_key:
                try:
                    return folder, self.load(folder)
                except StoreError:
                    continue
        return None

    def list(self) -> list[tuple[Path, Manifest | StoreError]]:
        """All engine folders in order, each with its manifest or with what is wrong; sizes are checked, not digests.

        Raises:
            StoreError: the root cannot be read. A model's folder that cannot be read is in the list.
        """
        entries: list[tuple[Path, Manifest | StoreError]] = []
        for model in _list_folders(self.root) if self.root.exists() else []:
            try:
                folders = _list_folders(model)
            except StoreError as error:
                entries.append((model, error))
                continue
            for folder in folders:
                try:
                    entries.append((folder, self._read(folder)))
                except StoreError as error:
                    entries.append((folder, error))
        return entries

    def _read(self, folder: Path) -> Manifest:
        try:
            text = read_bytes(folder / MANIFEST)
        except FileNotFoundError as error:
            raise StoreError(
                f"{folder} holds no engine: {MANIFEST} is missing.",
                f"List the engines with: trt-ff engines --output {shlex.quote(str(self.root))}",
            ) from error
        except OSError as error:
            raise make_store_error(error, folder / MANIFEST, "read") from error
        except DocumentError as error:
            raise StoreError(f"{folder / MANIFEST}: {error}.", "Build the engine again with --force.") from error
        try:
            manifest = Manifest.from_json(text)
        except StoreError as error:
            raise StoreError(f"{folder / MANIFEST}: {error.message}", error.remedy) from error
        if not any(name.startswith("engine.") for name in manifest.files):
            raise damaged(folder / MANIFEST, manifest, "it names no engine")
        for name, file in manifest.files.items():
            path = folder / name
            if name != make_safe_name(name) or not path.is_file():
                raise damaged(path, manifest, "it is missing")
            if path.stat().st_size != file.size_bytes:
                raise damaged(path, manifest, f"it has {path.stat().st_size} bytes, not {file.size_bytes}")
        return manifest


def _list_folders(path: Path) -> list[Path]:
    """The folders in ``path`` that are not hidden, in order. Raises StoreError where it cannot be read."""
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise make_store_error(error, path, "read") from error


def damaged(path: Path, manifest: Manifest, why: str) -> StoreError:
    """The error for a file of an engine folder; its remedy is the command that builds the engine again."""
    return StoreError(f"{path} cannot be used: {why}.", f"Build it again: {manifest.rebuild_command()}")
