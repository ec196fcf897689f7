"""Writing that leaves either all or nothing, also when the process is killed or the disk is full.

Files and folders are written under a temporary name beside their place, forced to the disk, and renamed. What a killed
process leaves behind has a name that starts with ``.tmp-`` or ``.old-`` and is never read; ``sweep`` clears it away.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
_LEFTOVER = re.compile(r"\.(?P<kind>tmp|old)-(?P<process>[0-9a-f]{8})-[0-9a-f]{8}-(?P<name>.+)")
_PROCESS = token_hex(4)  # tells this process's own work; process ids repeat, above all in containers

Lock = Callable[[Path], AbstractContextManager[bool]]
"""Takes the lock of a folder if it is free; gives whether it was."""


def store_error(error: OSError, path: Path, doing: str = "write") -> StoreError:
    """``error`` as a message that says what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Check the disk and the folder, or write elsewhere with --output DIR.")
    return StoreError(f"Cannot {doing} {path}: {reason}.", remedy)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing what is there; after a crash the old or the new content is there, whole.

    Raises:
        StoreError: the disk is full or the folder cannot be written to; nothing is left behind.
    """
    temporary = _sibling(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, data)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise store_error(error, path) from error
        raise


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and force it to the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def commit_folder(final: Path) -> Iterator[Path]:
    """Fill a folder as a whole: gives a temporary folder, and renames it to ``final`` when the block ends well.

    A folder that is already there is replaced. On any exception the temporary folder is removed and ``final`` is as it
    was. A process killed between the two renames leaves the old folder under a name that ``sweep`` puts back.

    Raises:
        StoreError: the disk is full or the folder cannot be written to.
    """
    made_parents = _missing_parents(final)
    temporary = _sibling(final, "tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _sync_tree(temporary)
        _swap(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made_parents:
            with suppress(OSError):  # only what is empty goes
                parent.rmdir()
        if isinstance(error, OSError):
            raise store_error(error, final) from error
        raise


def _swap(temporary: Path, final: Path) -> None:
    if not final.exists():
        temporary.rename(final)
        _sync(final.parent)
        return
    old = _sibling(final, "old")
    final.rename(old)
    try:
        temporary.rename(final)
    except BaseException:
        old.rename(final)
        raise
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def sweep(root: Path, lock: Lock) -> None:
    """Clear away what dead processes left in ``root`` and the folders right below it.

    A folder is touched only under its lock, so that the work of a living process stays. The old version of a folder
    whose replacement never arrived is put back. A store that cannot be written to is left as it is.
    """
    for leftover in [*root.glob(".*-*"), *root.glob("*/.*-*")]:
        found = _LEFTOVER.fullmatch(leftover.name)
        if found is None or found["process"] == _PROCESS:
            continue
        final = leftover.with_name(found["name"])
        with suppress(OSError, StoreError), lock(final) as free:
            if not free or not leftover.exists():
                continue
            if found["kind"] == "old" and not final.exists():
                leftover.rename(final)
            elif leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _sibling(path: Path, kind: str) -> Path:
    return path.with_name(f".{kind}-{_PROCESS}-{token_hex(4)}-{path.name}")


def _missing_parents(path: Path) -> list[Path]:
    return [parent for parent in path.parents if not parent.exists()]


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
