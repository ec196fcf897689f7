"""The bytes of an image file, or why there are none: what may be opened at all, and how much of it is read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from trt_facefusion.errors import FacesError

MAX_FILE_BYTES = 256 << 20


class UnreadableImageError(FacesError):
    """A file is not a picture that can be read; ``reason`` says why without the name."""

    kind = "image"

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"{name}: {reason}", remedy)
        self.reason = reason


class ImageTooLargeError(UnreadableImageError):
    """A file, or the picture that it would unpack to, is too large."""


class NotAFileError(UnreadableImageError):
    """A name belongs to a pipe, a device, a folder, or a link to nothing: it was not opened."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; pipes, devices and sockets, which may wait for ever, are not opened. Raises OSError."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        # Without O_NONBLOCK a pipe that took the file's name since would hold this process.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = os.fdopen(handle, "rb")
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return file
        file.close()
    what = "a directory" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
    raise OSError(f"not a regular file but {what}")


def read_bytes(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        ImageTooLargeError: more than 256 MiB.
        NotAFileError: not a regular file, or a link to none.
        UnreadableImageError: no such file, or no right to read it.
    """
    try:
        with open_regular(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            encoded = file.read(MAX_FILE_BYTES + 1) if size_bytes <= MAX_FILE_BYTES else b""
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        special = isinstance(error, OSError) and error.errno is None
        if special or (getattr(error, "errno", 0) in {errno.ENOENT, errno.ELOOP} and path.is_symlink()):
            reason = reason if special else f"a link that leads to no file ({reason})"
            raise NotAFileError(path.name, reason, "Take it out of the folder.") from error
        raise UnreadableImageError(path.name, reason, "Check the name and the rights of the file.") from error
    if max(size_bytes, len(encoded)) > MAX_FILE_BYTES:
        raise ImageTooLargeError(
            path.name,
            f"the file has {size_bytes >> 20} MiB; at most {MAX_FILE_BYTES >> 20} MiB are read",
            "Save the photo smaller.",
        )
    return encoded
