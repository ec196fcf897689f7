"""Frames into the journal: encoded a segment at a time, each by an encoder of its own."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from trt_facefusion.errors import BadInputError
from trt_facefusion.swap.video.encoding import VideoFormat
from trt_facefusion.swap.video.frames import import_av
from trt_facefusion.swap.video.journal import Journal, StoredPacket

SEGMENT_FRAMES = 60
"""Frames that a killed process loses at most; each segment costs a key frame."""


class SegmentWriter:
    """Takes frames, and appends a segment to ``journal`` whenever it is full."""

    def __init__(self, journal: Journal, coding: VideoFormat, frames: int = SEGMENT_FRAMES) -> None:
        self.journal, self.coding, self.size = journal, coding, frames
        self._encoder: Any = None
        self._packets: list[StoredPacket] = []
        self._frames = self._faces = 0

    def add(self, frame: Any, faces: int) -> None:
        """The next frame, in which ``faces`` faces were swapped.

        Raises:
            BadInputError: the frame has another size than those before.
            StoreError: the disk is full.
        """
        if (frame.width, frame.height) != (self.coding.width, self.coding.height):
            size = f"{self.coding.width}x{self.coding.height}"
            raise BadInputError(
                f"the video changes from {size} to {frame.width}x{frame.height} pixels",
                "give its parts one size with another program",
            )
        if self._encoder is None:
            self._encoder = self.coding.open_encoder()
        frame.pict_type = 0  # the encoder decides which are key frames
        self._encode(frame)
        self._frames, self._faces = self._frames + 1, self._faces + faces
        if self._frames == self.size:
            self.finish()

    def finish(self) -> None:
        """Append what there is as a segment."""
        if not self._frames:
            return
        self._encode(None)
        self.journal.append(self._packets, self._frames, self._faces)
        self._encoder, self._packets = None, []
        self._frames = self._faces = 0

    def _encode(self, frame: Any | None) -> None:
        av = import_av()
        try:
            for packet in self._encoder.encode(frame):
                unit = Fraction(packet.time_base or self.coding.time_base) / self.coding.time_base
                times = (round(packet.pts * unit), round((packet.duration or 0) * unit))
                self._packets.append(StoredPacket(*times, bool(packet.is_keyframe), bytes(packet)))
        except (av.FFmpegError, ValueError) as error:
            raise BadInputError(
                f"{self.coding.encoder} cannot encode the video: {error}", "take another encoder with --codec"
            ) from error
