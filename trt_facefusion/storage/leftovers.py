"""Temporary files and folders: who owns them, and what becomes of those whose owner is dead.

What is being written has a name that starts with ``.tmp-`` (``.old-`` for what it replaces), and its owner holds the
operating system's lock on it. The lock ends with the process, also after kill -9: what nobody holds is left over, and
whoever writes into the same folder next clears it away. Where there are no locks (NFS, SMB, FUSE), what has not changed
for a day is left over.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from trt_facefusion.errors import StoreError

if sys.platform != "win32":
    import fcntl

PROCESS = token_hex(4)
"""Tells this process's own temporary files; process ids repeat, above all in containers."""

_LEFTOVER = re.compile(r"\.(?P<kind>tmp|old)-(?P<process>[0-9a-f]{8})-[0-9a-f]{8}-(?P<name>.+)", re.DOTALL)
_SCRATCH = "trt-ff"
_SCRATCH_NAME = re.compile(rf"{_SCRATCH}-(?P<process>[0-9a-f]{{8}})-[0-9a-f]{{8}}")
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EPERM}
_OLD_S = 24 * 3600.0

_weaknesses_announced: set[str] = set()
_swept: set[Path] = set()
_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """Let ``listener`` be told, from now on and in place of earlier ones, what a file system makes weaker."""
    _listeners[:] = [listener]


def tell_weaker(message: str) -> None:
    """Say once what is weaker than promised on this file system."""
    if message not in _weaknesses_announced:
        _weaknesses_announced.add(message)
        for listener in _listeners:
            listener(message)


def sibling(path: Path, kind: str) -> Path:
    """A temporary name beside ``path``; ``kind`` is ``tmp`` or ``old``."""
    return path.with_name(f".{kind}-{PROCESS}-{token_hex(4)}-{path.name}")


@contextmanager
def owned(path: Path, make: Callable[[Path], None] | None = None) -> Iterator[bool]:
    """Own ``path`` while the block runs, whatever it is renamed to; ``make`` makes it first.

    Gives whether others can see it: not where the file system has no locks.
    """
    while True:
        if make is not None:
            make(path)
        handle = _lock_file(path, wait=True)
        if handle is None or make is None or _is_still(path, handle):
            break
        os.close(handle)  # swept between making and locking
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def locks_work(folder: Path) -> bool:
    """Whether the file system of ``folder``, which must exist, has locks. Raises OSError."""
    probe = sibling(folder / "lock", "tmp")
    try:
        with owned(probe, lambda path: path.touch(exist_ok=False)) as works:
            return works or sys.platform == "win32"
    finally:
        probe.unlink(missing_ok=True)


def sweep_once(folder: Path) -> None:
    """Clear away what dead processes left in ``folder``, the first time that this process writes there."""
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):
        for path in list(folder.glob(".*-*")):
            sweep_leftover(path)


def sweep_leftover(path: Path) -> None:
    """Remove ``path`` if it is left over; the old version of what was never replaced is put back."""
    match = _LEFTOVER.fullmatch(path.name)
    if match is not None and match["process"] != PROCESS:
        final = path.with_name(match["name"])
        _end(path, put_back=final if match["kind"] == "old" else None)


def is_leftover(path: Path) -> Path | None:
    """What ``path`` was to become, if it is the temporary file or folder of another process."""
    match = _LEFTOVER.fullmatch(path.name)
    return None if match is None or match["process"] == PROCESS else path.with_name(match["name"])


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that only this user can read; gone when the block ends, or swept by whoever makes the next.

    Raises:
        StoreError: the system's temporary folder is full, or cannot be written to.
    """
    place = Path(tempfile.gettempdir())
    for path in place.glob(f"{_SCRATCH}-*-*"):
        match = _SCRATCH_NAME.fullmatch(path.name)
        if match is not None and match["process"] != PROCESS:
            _end(path)
    folder = place / f"{_SCRATCH}-{PROCESS}-{token_hex(4)}"
    try:
        with owned(folder, lambda path: path.mkdir(mode=0o700)):
            yield folder
    except OSError as error:
        ours = error.filename is not None and str(error.filename).startswith(str(folder))
        if error.errno not in {errno.ENOSPC, errno.EDQUOT} and not ours:
            raise
        raise StoreError(
            f"Cannot write to the temporary folder {place}: {os.strerror(error.errno or 0)}.",
            "Free some space there, or name another folder in the environment variable TMPDIR.",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(path: Path, put_back: Path | None = None) -> None:
    """Remove what nobody owns; what belongs to others, or cannot be removed, stays."""
    with suppress(OSError):
        if hasattr(os, "geteuid") and path.lstat().st_uid != os.geteuid():
            return
        handle = None
        try:
            handle = _lock_file(path, wait=False)
            if handle is None and time.time() - _find_last_change(path) < _OLD_S:
                return
            if put_back is not None and not put_back.exists():
                path.rename(put_back)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        finally:
            if handle is not None:
                os.close(handle)


def _lock_file(path: Path, *, wait: bool) -> int | None:
    """A handle that locks ``path``; None where there are no locks.

    Raises:
        BlockingIOError: another process owns it, and ``wait`` is False.
        OSError: it cannot be opened.
    """
    if sys.platform == "win32":
        return None
    # A link is never followed to be swept; one that a user put in place of a folder is.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if wait else os.O_NOFOLLOW))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(handle)
        if error.errno in _NO_LOCKS:
            return None
        raise
    except BaseException:
        os.close(handle)
        raise
    return handle


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _find_last_change(path: Path) -> float:
    inside = path.rglob("*") if path.is_dir() else ()
    return max(float(entry.lstat().st_mtime) for entry in (path, *inside))
