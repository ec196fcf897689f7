"""One build at a time for each engine folder.

The lock is the operating system's: it ends with the process, also with kill -9. A process that holds a lock may take it
again; the threads of one process are not kept apart.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from trt_facefusion.engine.store.atomic import make_store_error
from trt_facefusion.errors import StoreError
from trt_facefusion.storage.leftovers import locks_work, tell_weaker

_LOCKS: dict[Path, bool] = {}


@contextmanager
def build_lock(
    folder: Path, timeout_s: float | None = None, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock of ``folder`` (which need not exist yet) while the block runs.

    Args:
        folder: the engine folder; the lock file lies beside it and stays there.
        timeout_s: seconds to wait for another build; None waits for ever, 0 not at all.
        waiting: called once with a message when another build holds the lock.

    Raises:
        StoreError: another build still holds the lock after ``timeout_s``, or the folder cannot be written to.
    """
    lock = _take(folder, 0)
    if lock is None and timeout_s != 0:
        if waiting is not None:
            waiting(f"waiting for {_name_holder(folder)}, which builds {folder.name}")
        lock = _take(folder, -1 if timeout_s is None else timeout_s)
    if lock is None:
        raise StoreError(
            f"{folder} is being built by {_name_holder(folder)}.",
            "Wait until it is done, stop it, or write elsewhere with --output DIR.",
        )
    with _hold(lock, folder):
        yield


@contextmanager
def try_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder`` if it is free; gives whether it was."""
    lock = _take(folder, 0)
    if lock is None:
        yield False
        return
    with _hold(lock, folder):
        yield True


@contextmanager
def _hold(lock: FileLock | _NoLock, folder: Path) -> Iterator[None]:
    holder = _locate_holder_file(folder)
    try:
        with suppress(OSError):  # it only makes the message of others better
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):
                holder.unlink(missing_ok=True)
        lock.release()


class _NoLock:
    """In place of a lock where the file system has none: nobody is kept out."""

    lock_counter = 1

    def release(self) -> None:
        """Nothing to release."""


def _take(folder: Path, timeout_s: float) -> FileLock | _NoLock | None:
    path = folder.with_name(f".lock-{folder.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _has_locks(path.parent):
            tell_weaker(
                f"{path.parent} lies on a file system without locks: of two builds of one model at once, each does all "
                "the work, and the later one stays"
            )
            return _NoLock()
        lock = FileLock(path, thread_local=False, is_singleton=True)
        lock.acquire(timeout=timeout_s, poll_interval=0.1)
    except Timeout:
        return None
    except OSError as error:
        raise make_store_error(error, path) from error
    return lock


def _has_locks(folder: Path) -> bool:
    """Asked once of each folder; one that cannot be written to is told by the lock itself."""
    works = _LOCKS.get(folder)
    if works is None:
        try:
            works = _LOCKS[folder] = locks_work(folder)
        except OSError:
            return True
    return works


def _locate_holder_file(folder: Path) -> Path:
    return folder.with_name(f".holder-{folder.name}")


def _name_holder(folder: Path) -> str:
    try:
        holder = json.loads(_locate_holder_file(folder).read_text())
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another build"
