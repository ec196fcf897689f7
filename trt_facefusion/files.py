"""Writing one file so that either all of it is there or what was there before, also when the process is killed."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from trt_facefusion.errors import StoreError

_REMEDIES = {
    errno.ENOSPC: "Free some disk space, or write elsewhere with --output DIR.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or write elsewhere with --output DIR.",
    errno.EACCES: "Give yourself the right to write there, or write elsewhere with --output DIR.",
    errno.EPERM: "Give yourself the right to write there, or write elsewhere with --output DIR.",
    errno.EROFS: "That file system is read-only: write elsewhere with --output DIR.",
    errno.ENOTDIR: "A part of that path is a file: name a folder with --output DIR.",
    errno.EEXIST: "A file is in the way: remove it, or name another folder with --output DIR.",
    errno.ENAMETOOLONG: "Take a shorter folder or model name.",
}
PROCESS = token_hex(4)
"""Tells this process's own temporary files; process ids repeat, above all in containers."""


def store_error(error: OSError, path: Path, doing: str = "write", option: str = "--output") -> StoreError:
    """``error`` as a message that says what to do; ``option`` is the one that names another place."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Check the disk and the folder, or write elsewhere with --output DIR.")
    return StoreError(f"Cannot {doing} {path}: {reason}.", remedy.replace("--output", option))


def write_atomic(path: Path, data: bytes, option: str = "--output") -> None:
    """Write ``data`` to ``path``, replacing what is there; after a crash the old or the new content is there, whole.

    Raises:
        StoreError: the disk is full or the folder cannot be written to; nothing is left behind.
    """
    temporary = sibling(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, data)
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise store_error(error, path, option=option) from error
        raise


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and force it to the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sibling(path: Path, kind: str) -> Path:
    """A temporary name beside ``path``; ``kind`` is ``tmp`` or ``old``."""
    return path.with_name(f".{kind}-{PROCESS}-{token_hex(4)}-{path.name}")


def sync(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
