"""Reading and writing single files.

Only regular files are read: a FIFO would hold the reader for ever, and a device has no end. What is written is there
whole, or what was there before is, also when the process is killed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trt_facefusion.errors import BadInputError, StoreError, TrtFaceFusionError
from trt_facefusion.storage.leftovers import PROCESS, owned, sibling, sweep_once, tell_weaker

__all__ = [
    "PROCESS",
    "digest_regular",
    "make_store_error",
    "read_regular",
    "require_regular_file",
    "sibling",
    "sync",
    "write_atomic",
    "write_synced",
]

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


def make_store_error(error: OSError, path: Path, doing: str = "write", option: str = "--output") -> StoreError:
    """``error`` as a message that says what to do; ``option`` is the one that names another place."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Check the disk and the folder, or write elsewhere with --output DIR.")
    return StoreError(f"Cannot {doing} {path}: {reason}.", remedy.replace("--output", option))


def require_regular_file(path: Path, what: str = "file", kind: type[TrtFaceFusionError] = BadInputError) -> None:
    """Refuse what is no regular file (or a link to one): before a library opens ``path`` itself.

    Args:
        path: the file that the user named.
        what: what it should be, for the message (``checkpoint``, ``model``).
        kind: the class of the error.

    Raises:
        TrtFaceFusionError: of class ``kind``: nothing is there, or a folder, a FIFO, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _make_reading_error(path, what, kind, error) from error
    if not stat.S_ISREG(mode):
        raise _make_kind_error(path, what, kind, mode)


def read_regular(
    path: Path, what: str = "file", kind: type[TrtFaceFusionError] = BadInputError, limit_bytes: int | None = None
) -> bytes:
    """The content of a regular file; never waits for one that is none, nor reads more than ``limit_bytes``.

    Raises:
        TrtFaceFusionError: of class ``kind``: as `require_regular_file`, or the file cannot be read or is too large.
    """
    with _opened(path, what, kind) as file:
        size = os.fstat(file.fileno()).st_size
        if limit_bytes is not None and size > limit_bytes:
            raise _make_size_error(path, what, kind, size, limit_bytes)
        content = file.read() if limit_bytes is None else file.read(limit_bytes + 1)
    if limit_bytes is not None and len(content) > limit_bytes:
        raise _make_size_error(path, what, kind, len(content), limit_bytes)
    return content


def digest_regular(path: Path, what: str = "file", kind: type[TrtFaceFusionError] = BadInputError) -> bytes:
    """SHA-256 (32 bytes) of the content of a regular file of any size, which is never held whole.

    Raises:
        TrtFaceFusionError: as `read_regular`.
    """
    digest = hashlib.sha256()
    with _opened(path, what, kind) as file:
        while part := file.read(_CHUNK_BYTES):
            digest.update(part)
    return digest.digest()


@contextmanager
def _opened(path: Path, what: str, kind: type[TrtFaceFusionError]) -> Iterator[BinaryIO]:
    """A regular file, open for reading; what goes wrong with it, also inside the block, is an error of ``kind``."""
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise _make_kind_error(path, what, kind, mode)
            yield file
    except IsADirectoryError as error:
        raise _make_kind_error(path, what, kind, stat.S_IFDIR) from error
    except (OSError, ValueError) as error:
        raise _make_reading_error(path, what, kind, error) from error


_CHUNK_BYTES = 1 << 20


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (a pipe)"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def _make_kind_error(path: Path, what: str, kind: type[TrtFaceFusionError], mode: int) -> TrtFaceFusionError:
    what_it_is = next((name for test, name in _KINDS if test(mode)), "no regular file")
    return kind(
        f"the {what} {path} is {what_it_is}, not a file", "name a regular file; write what a pipe gives into one first"
    )


def _make_reading_error(path: Path, what: str, kind: type[TrtFaceFusionError], error: Exception) -> TrtFaceFusionError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return kind(f"the {what} {path} does not exist", "check the path")
    if isinstance(error, ValueError):  # a zero byte in the name
        return kind(f"the {what} {path} cannot exist: {error}", "check the path")
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return kind(f"cannot read the {what} {path}: {reason}", "check the path and the file's rights")


def _make_size_error(
    path: Path, what: str, kind: type[TrtFaceFusionError], size: int, limit: int
) -> TrtFaceFusionError:
    return kind(f"the {what} {path} has {size:,} bytes, more than the {limit:,} that one may have", "check the path")


def write_atomic(path: Path, content: bytes, option: str = "--output") -> None:
    """Write ``content`` to ``path``, replacing what is there; after a crash the old or the new content is there, whole.

    Raises:
        StoreError: the disk is full or the folder cannot be written to; nothing is left behind.
    """
    temporary = sibling(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(path.parent)
        with owned(temporary, _touch):
            write_synced(temporary, content)
            _replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise make_store_error(error, path, option=option) from error
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and force it to the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        _sync_handle(file.fileno(), path.parent)


def sync(path: Path) -> None:
    """Force a file or a folder's entries to the disk, where the file system can."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to, but not read
        tell_weaker(_UNSYNCED.format(path))
        return
    try:
        _sync_handle(handle, path)
    finally:
        os.close(handle)


_UNSYNCED = "{} cannot be forced to the disk: after a power cut, what was written last may be missing"
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EISDIR, errno.EBADF}


def _sync_handle(handle: int, path: Path) -> None:
    try:
        os.fsync(handle)
    except OSError as error:  # folders on SMB and FUSE
        if error.errno not in _CANNOT:
            raise
        tell_weaker(_UNSYNCED.format(path))


def _touch(path: Path) -> None:
    path.touch(exist_ok=False)


def _replace(temporary: Path, path: Path) -> None:
    """Rename over what is there; where the file system does not, with a moment in which neither has the name."""
    try:
        temporary.replace(path)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.EPERM, errno.EACCES, *_CANNOT} or not path.is_file():
            raise
        old = sibling(path, "old")
        path.rename(old)
        try:
            temporary.rename(path)
        except BaseException:
            old.rename(path)
            raise
        old.unlink()
