"""A video, frame by frame: decoded, swapped and encoded at the same time, resumed where a killed process stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion import __version__
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.faces.detector import Face
from trt_facefusion.storage.files import make_store_error, sibling, sync
from trt_facefusion.storage.leftovers import owned, sweep_once
from trt_facefusion.swap.engines import Rendered
from trt_facefusion.swap.identity import Identity
from trt_facefusion.swap.photo import Photo
from trt_facefusion.swap.provenance import Signer
from trt_facefusion.swap.selection import FaceSelection
from trt_facefusion.swap.swapper import FaceTask, Swapper
from trt_facefusion.swap.video.encoding import EncodingSettings, VideoFormat, choose_video_format
from trt_facefusion.swap.video.flow import run_overlapped
from trt_facefusion.swap.video.frames import (
    VideoReader,
    convert_frame,
    count_turns,
    import_av,
    read_rgb,
    turn_left,
    turn_points_back,
    write_patch,
)
from trt_facefusion.swap.video.journal import Journal
from trt_facefusion.swap.video.mux import write_video
from trt_facefusion.swap.video.segments import SEGMENT_FRAMES, SegmentWriter
from trt_facefusion.types import Progress, silent

_STAGE = "frames"
_END_BYTES = 1 << 20


@dataclass(frozen=True)
class VideoResult:
    """Frames of the video, faces swapped in it, frames that were done before (``resumed``), ``fps`` of the rest."""

    frames: int
    faces: int
    resumed: int
    fps: float


@dataclass(eq=False)
class _FrameJob:
    """A frame on its way: its planes, its pixels [H,W,3] RGB of 8 or 16 bits, and what is pasted into them."""

    number: int
    frame: Any
    pixels: NDArray[Any]
    tasks: Sequence[FaceTask] = ()
    rendered: Sequence[Rendered] = ()


@dataclass
class VideoSwap:
    """The swap of one video.

    ``signer`` signs the finished file; ``segment`` is the number of frames of a segment.
    """

    swapper: Swapper
    identity: Identity | None
    selection: FaceSelection
    encoding: EncodingSettings
    signer: Signer | None = None
    segment: int = SEGMENT_FRAMES
    progress: Progress = silent

    def run(self, source: Path, out: Path) -> VideoResult:
        """Write ``out``, made of ``source``.

        Raises:
            BackendUnavailableError: PyAV is not installed.
            BadInputError: the source is no video or damaged, or ``out`` cannot hold what it is to hold.
            GateError: a picture is broken whichever engine makes it.
            StoreError: another process makes ``out``, or it cannot be written.
        """
        with VideoReader(source) as reader:
            coding = choose_video_format(reader, out, self.encoding)
            if self.signer is not None:
                self.signer.require(out.suffix.lower(), out.name)
            with Journal(out, self._make_key(source, coding)) as journal:
                return self._run(reader, coding, journal, source, out)

    def _run(self, reader: VideoReader, coding: VideoFormat, journal: Journal, source: Path, out: Path) -> VideoResult:
        done = journal.progress
        if done.frames:
            self.swapper.note(f"{out.name}: goes on behind frame {done.frames}, which were done before")
        elif journal.restarted:
            self.swapper.note(f"{out.name}: begun anew, as the source or the settings are not what they were")
        started = time.monotonic()
        rotation = self._write_frames(reader, coding, journal)
        seconds = time.monotonic() - started
        self._finish(journal, coding, source, out, rotation)
        frames = journal.progress.frames
        return VideoResult(frames, journal.progress.faces, done.frames, (frames - done.frames) / max(seconds, 1e-6))

    def _write_frames(self, reader: VideoReader, coding: VideoFormat, journal: Journal) -> int:
        """Put all frames that are not in ``journal`` into it; gives the rotation that players apply."""
        skip, rotation = journal.progress.frames, [0]
        writer = SegmentWriter(journal, coding, self.segment)
        chunks = self._read_chunks(reader, coding, skip, rotation)
        number = skip
        self.progress(_STAGE, number, reader.count)
        for chunk in run_overlapped(chunks, [self._find, self._render, self._paste]):
            for job in chunk:
                with self.swapper.times.measure("encode"):
                    writer.add(job.frame, len(job.tasks))
                number = job.number
                self.progress(_STAGE, number, max(reader.count, number))
        with self.swapper.times.measure("encode"):
            writer.finish()
        return rotation[0]

    def _read_chunks(
        self, reader: VideoReader, coding: VideoFormat, skip: int, rotation: list[int]
    ) -> Iterator[list[_FrameJob]]:
        """Frames behind the first ``skip``, as many at a time as the engine takes faces."""
        size, chunk = self.swapper.engines.first.batch, []
        frames = enumerate(reader.read(), 1)
        while True:
            with self.swapper.times.measure("decode"):
                number, frame = next(frames, (0, None))
                if frame is None:
                    break
                rotation[0] = 90 * count_turns(frame)
                if number <= skip:
                    continue
                frame = convert_frame(frame, coding.pixels)
                chunk.append(_FrameJob(number, frame, read_rgb(frame)))
            if len(chunk) == size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _find(self, chunk: list[_FrameJob]) -> list[_FrameJob]:
        for job in chunk:
            image, turns = Photo(job.pixels).rgb8, count_turns(job.frame)
            height, width = image.shape[:2]
            faces = self.swapper.find_faces(turn_left(image, turns), self.selection)
            turned = [
                Face(face.box, turn_points_back(face.landmarks, turns, height, width), face.score) for face in faces
            ]
            job.tasks = [
                self.swapper.cut(image, face, f"frame {job.number}, face {number}")
                for number, face in enumerate(turned, 1)
            ]
        return chunk

    def _render(self, chunk: list[_FrameJob]) -> list[_FrameJob]:
        rendered = self.swapper.render([task for job in chunk for task in job.tasks], self.identity)
        for job in chunk:
            job.rendered, rendered = rendered[: len(job.tasks)], rendered[len(job.tasks) :]
        return chunk

    def _paste(self, chunk: list[_FrameJob]) -> list[_FrameJob]:
        for job in chunk:
            job.pixels = np.require(job.pixels, requirements=["C", "W"])
            patches = self.swapper.paste(Photo(job.pixels), job.tasks, job.rendered)
            with self.swapper.times.measure("paste"):
                for patch in patches:
                    write_patch(job.frame, job.pixels, patch)
            job.pixels, job.rendered = job.pixels[:0], ()
        return chunk

    def _finish(self, journal: Journal, coding: VideoFormat, source: Path, out: Path, rotation: int) -> None:
        """Write the finished file, sign it where that is asked for, and forget the journal."""
        unsigned, signed = sibling(out, "tmp"), sibling(out, "tmp")
        av, tags = import_av(), self.swapper.provenance.tags
        sweep_once(out.parent)
        try:
            with owned(unsigned, _touch), owned(signed, _touch):
                write_video(journal, coding, source, unsigned, tags, rotation, self.swapper.note, out.suffix)
                if self.signer is not None:
                    self.signer.sign_file(unsigned, signed, out.name)
                result = unsigned if self.signer is None else signed
                sync(result)
                result.replace(out)
            sync(out.parent)
        except (OSError, av.FFmpegError) as error:
            if isinstance(error, TrtFaceFusionError):
                raise
            reason = error if isinstance(error, OSError) else OSError(str(error))
            raise make_store_error(reason, out, option="--out") from error
        finally:
            for temporary in (unsigned, signed):
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
        journal.remove()

    def _make_key(self, source: Path, coding: VideoFormat) -> str:
        """Changes whenever the video would become another one."""
        parts = [
            __version__,
            _digest_ends(source),
            repr(coding),
            str(self.segment),
            self.swapper.engines.digest,
            repr(self.swapper.settings),
            repr(self.swapper.preset),
            repr(self.selection.faces),
            repr(self.selection.distance),
            _digest_array(self.selection.people),
            self.swapper.describe_detector(),
        ]
        if self.identity is not None:
            parts += [_digest_array(self.identity.embedding), *map(_digest_array, self.identity.crops.values())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _touch(path: Path) -> None:
    path.touch(exist_ok=False)


def _digest_array(values: NDArray[Any] | None) -> str:
    return "-" if values is None else hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _digest_ends(path: Path) -> str:
    """Of a video's size, time of change, first and last MiB: reading all of it would take minutes."""
    status = path.stat()
    with path.open("rb") as file:
        first = file.read(_END_BYTES)
        file.seek(max(status.st_size - _END_BYTES, 0))
        last = file.read(_END_BYTES)
    return f"{status.st_size} {status.st_mtime_ns} {hashlib.sha256(first + last).hexdigest()}"
