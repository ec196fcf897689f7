"""What of a video is done, beside the video that it is to become: whole segments, each behind its checksum.

A segment is encoded by an encoder of its own, begins with a key frame and needs nothing of any other. So a process that
was killed loses one segment at most, and who goes on writes what would have been written.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from trt_facefusion.errors import StoreError
from trt_facefusion.storage.documents import DocumentError, parse_json
from trt_facefusion.storage.files import make_store_error, sync

if sys.platform != "win32":
    import fcntl

_MAGIC = b"trt-ff video 1\n"
_HEAD = struct.Struct("<4sIIQI")
"""Of a segment: its mark, frames, faces, bytes of its packets, their checksum."""
_PACKET = struct.Struct("<qqIB")
"""Of a packet: time shown, duration, bytes, whether it is a key frame."""
_SEGMENT = b"SEGM"
_MOST_HEADER = 1 << 20


class StoredPacket(NamedTuple):
    """An encoded frame: the time at which it is shown and its duration, in units of the stream."""

    pts: int
    duration: int
    is_key: bool
    content: bytes


@dataclass(frozen=True)
class Progressed:
    """What a journal holds: whole segments, their frames, and how many faces were swapped in them."""

    segments: int = 0
    frames: int = 0
    faces: int = 0


class Journal:
    """The journal of the video that ``path`` is to become; a context manager that holds it alone.

    A journal of other settings (``key``) is begun anew; ``restarted`` says so. What a killed process left behind its
    last whole segment is cut off.

    Raises:
        StoreError: another process is at it, or it cannot be read or written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path.with_name(f".{path.name}.unfinished")
        self.restarted = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            self._lock(path)
            if not self._is_ours(key):
                self._begin(key)
            self._start, self.progress = self._file.tell(), self._skip_whole()
        except OSError as error:
            raise make_store_error(error, self.path, option="--out") from error

    def append(self, packets: Sequence[StoredPacket], frames: int, faces: int) -> None:
        """One more segment, forced to the disk.

        Raises:
            StoreError: the disk is full.
        """
        body = b"".join(
            _PACKET.pack(packet.pts, packet.duration, len(packet.content), packet.is_key) + packet.content
            for packet in packets
        )
        try:
            self._file.write(_HEAD.pack(_SEGMENT, frames, faces, len(body), zlib.crc32(body)))
            self._file.write(body)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise make_store_error(error, self.path, option="--out") from error
        done = self.progress
        self.progress = Progressed(done.segments + 1, done.frames + frames, done.faces + faces)

    def read(self) -> Iterator[StoredPacket]:
        """All packets, in the order in which they were encoded."""
        with self.path.open("rb") as file:
            file.seek(self._start)
            for _ in range(self.progress.segments):
                _, _, _, size, _ = _HEAD.unpack(file.read(_HEAD.size))
                end = file.tell() + size
                while file.tell() < end:
                    pts, duration, length, is_key = _PACKET.unpack(file.read(_PACKET.size))
                    yield StoredPacket(pts, duration, bool(is_key), file.read(length))

    def list_times(self) -> list[int]:
        """The times at which the packets are shown, in the order in which they were encoded."""
        return [packet.pts for packet in self.read()]

    def remove(self) -> None:
        """The video is done."""
        self.path.unlink(missing_ok=True)
        sync(self.path.parent)

    def close(self) -> None:
        """Let others at it."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self, path: Path) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise StoreError(
                f"{path} is being made by another process.", "Wait until it is done, stop it, or name another --out."
            ) from error
        except OSError:  # a file system without locks
            pass

    def _is_ours(self, key: str) -> bool:
        """Whether it begins with ``key``; the file then stands behind its header."""
        if self._file.read(len(_MAGIC)) != _MAGIC:
            return False
        header = self._file.readline(_MOST_HEADER)
        try:
            return bool(parse_json(header) == {"key": key})
        except DocumentError:
            return False

    def _begin(self, key: str) -> None:
        self.restarted = os.fstat(self._file.fileno()).st_size > 0
        self._file.seek(0)
        self._file.truncate()
        self._file.write(_MAGIC + json.dumps({"key": key}).encode() + b"\n")
        self._file.flush()

    def _skip_whole(self) -> Progressed:
        """Go behind the last whole segment, and cut off what follows."""
        done, behind = Progressed(), self._file.tell()
        while len(head := self._file.read(_HEAD.size)) == _HEAD.size:
            mark, frames, faces, size, checksum = _HEAD.unpack(head)
            if mark != _SEGMENT or not _holds(self._file, size, checksum):
                break
            done = Progressed(done.segments + 1, done.frames + frames, done.faces + faces)
            behind = self._file.tell()
        self._file.seek(behind)
        self._file.truncate()
        return done


def _holds(file: BinaryIO, size: int, checksum: int) -> bool:
    """Whether the next ``size`` bytes are there, with this checksum."""
    left, so_far = size, 0
    while left:
        part = file.read(min(left, 1 << 20))
        if not part:
            return False
        so_far, left = zlib.crc32(part, so_far), left - len(part)
    return so_far == checksum
