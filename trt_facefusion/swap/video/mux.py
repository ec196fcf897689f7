"""The finished video: the encoded segments as one stream, and the sound of the source beside it, as it was."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trt_facefusion.errors import BadInputError
from trt_facefusion.swap.video.encoding import CONTAINERS, VideoFormat
from trt_facefusion.swap.video.frames import import_av
from trt_facefusion.swap.video.journal import Journal, StoredPacket
from trt_facefusion.types import Note

_COPIED = ("audio", "subtitle")


def write_video(
    journal: Journal,
    coding: VideoFormat,
    source: Path,
    target: Path,
    tags: Mapping[str, str],
    rotation: int,
    note: Note,
    suffix: str,
) -> None:
    """Write ``target``: the frames of ``journal``, the sound of ``source``, and ``tags``.

    Args:
        journal: holds all frames.
        coding: how they were encoded.
        source: the video whose sound (and subtitles) are copied, packet by packet.
        target: the file, which is replaced.
        tags: metadata of the container.
        rotation: degrees by which players turn the frames to the left.
        note: is told what the container does not take.
        suffix: of the name that it will have.

    Raises:
        BadInputError: the container does not take the sound.
        OSError: the file cannot be written.
    """
    av = import_av()
    with (
        av.open(str(source)) as origin,
        av.open(str(target), "w", format=CONTAINERS[suffix.lower()]) as container,
    ):
        container.metadata.update(tags)
        video = container.add_stream(coding.encoder, rate=coding.rate)
        coding.apply(video.codec_context)
        video.time_base = coding.time_base
        if rotation:
            video.set_display_rotation(rotation)
        copies = _copy_streams(av, origin, container, note, suffix)
        try:
            container.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            raise _refuse(suffix, str(error)) from error
        packets = heapq.merge(
            _list_video(av, journal, coding, video), _list_copies(origin, copies), key=lambda timed: timed[0]
        )
        for _, packet in packets:
            container.mux_one(packet)


def _copy_streams(av: Any, origin: Any, container: Any, note: Note, suffix: str) -> dict[int, Any]:
    """A stream of ``container`` for each that is copied, by its number in ``origin``."""
    copies: dict[int, Any] = {}
    for stream in origin.streams:
        if stream.type not in _COPIED:
            continue
        try:
            copy = container.add_stream_from_template(stream)
        except (av.FFmpegError, ValueError) as error:
            if stream.type == "audio":
                raise _refuse(suffix, str(error)) from error
            note(f"warning: {suffix} does not take the subtitles of the source, so they are left out")
            continue
        if language := stream.metadata.get("language"):
            copy.metadata["language"] = language
        copies[stream.index] = copy
    return copies


def _refuse(suffix: str, why: str) -> BadInputError:
    return BadInputError(
        f"a {suffix} file does not take the sound of the source as it is: {why}", "write a .mkv, which takes any"
    )


def order_times(times: Sequence[int]) -> list[int]:
    """When each packet must be decoded, of packets that are shown at ``times`` [N], in the order of decoding.

    Decoding times rise, and none lies behind the time at which its packet is shown: packet j gets the time at which
    the picture is shown that comes as many before the j-th as the encoder reorders.
    """
    if not times:
        return []
    shown = sorted(times)
    rank = {time: number for number, time in enumerate(shown)}
    delay = max(number - rank[time] for number, time in enumerate(times))
    step = max(shown[1] - shown[0], 1) if len(shown) > 1 else 1
    early = [shown[0] - step * (delay - number) for number in range(min(delay, len(times)))]
    return early + shown[: len(times) - len(early)]


def _list_video(av: Any, journal: Journal, coding: VideoFormat, stream: Any) -> Iterator[tuple[float, Any]]:
    decoded = order_times(journal.list_times())
    for stored, time in zip(journal.read(), decoded, strict=True):
        yield float(time * coding.time_base), _make_packet(av, stored, time, coding, stream)


def _make_packet(av: Any, stored: StoredPacket, time: int, coding: VideoFormat, stream: Any) -> Any:
    packet = av.Packet(stored.content)
    packet.stream, packet.time_base = stream, coding.time_base
    packet.pts, packet.dts, packet.duration = stored.pts, time, stored.duration
    packet.is_keyframe = stored.is_key
    return packet


def _list_copies(origin: Any, copies: Mapping[int, Any]) -> Iterator[tuple[float, Any]]:
    if not copies:
        return
    last = 0.0
    for packet in origin.demux([origin.streams[index] for index in copies]):
        if packet.dts is None and packet.pts is None:
            continue  # the mark of the end
        time = packet.dts if packet.dts is not None else packet.pts
        last = max(last, float(time * packet.time_base))
        packet.stream = copies[packet.stream.index]
        yield last, packet
