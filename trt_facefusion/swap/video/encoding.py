"""How a video is written: which encoder, and one encoder like another for every segment of it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from trt_facefusion.errors import BadInputError
from trt_facefusion.swap.video.frames import VideoReader, choose_format, import_av

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffixes of the videos that are written, and libavformat's name of the container."""
QUALITY = 17
"""Constant rate factor at which x264 is hard to tell from its source."""
_THREADS = 4
"""The same everywhere: x264 decides by it, and a resumed video is to be the same."""
_ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "ffv1": "ffv1",
    "mjpeg": "mjpeg",
    "prores": "prores_ks",
}
_OPTIONS = {
    "libx264": {"preset": "fast"},
    "libx265": {"preset": "fast", "x265-params": "log-level=none"},
    "libvpx": {"b": "0", "deadline": "good", "cpu-used": "4"},
    "libvpx-vp9": {"b": "0", "deadline": "good", "cpu-used": "4"},
    "libsvtav1": {"preset": "8"},
    "ffv1": {"level": "3"},
    "prores_ks": {"profile": "hq"},
}
_RATED = frozenset({"libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1"})


@dataclass(frozen=True)
class EncodingSettings:
    """``codec`` as libav calls it (h264, hevc, av1, ffv1, ...), None for that of the source; ``quality`` its CRF."""

    codec: str | None = None
    quality: int = QUALITY


@dataclass(frozen=True)
class VideoFormat:
    """All that an encoder must be told; two encoders of one format write packets that belong together."""

    encoder: str
    pixels: str
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    aspect: Fraction | None
    colours: tuple[int, int, int, int]
    options: tuple[tuple[str, str], ...]
    header_apart: bool

    def open_encoder(self) -> Any:
        """An encoder. Raises BadInputError where libav refuses the format."""
        av = import_av()
        context = av.CodecContext.create(self.encoder, "w")
        self.apply(context)
        try:
            context.open()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadInputError(
                f"{self.encoder} does not take {self.width}x{self.height} pixels of {self.pixels}: {error}",
                "take another encoder with --codec, for example h264",
            ) from error
        return context

    def apply(self, context: Any) -> None:
        """Tell an encoder's ``context`` what it writes."""
        from av.codec.context import Flags

        context.width, context.height, context.pix_fmt = self.width, self.height, self.pixels
        context.time_base, context.framerate = self.time_base, self.rate
        if self.aspect:
            context.sample_aspect_ratio = self.aspect
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = self.colours
        context.thread_count = _THREADS
        context.options = dict(self.options)
        if self.header_apart:
            context.flags |= Flags.global_header


def choose_video_format(reader: VideoReader, out: Path, settings: EncodingSettings) -> VideoFormat:
    """How the video ``out`` is written that is made of what ``reader`` reads.

    Raises:
        BadInputError: the suffix of ``out`` names no container that is written, or the codec is not known here.
    """
    av = import_av()
    container = CONTAINERS.get(out.suffix.lower())
    if container is None:
        raise BadInputError(
            f"{out.name}: videos of the kind {out.suffix or 'without a suffix'} are not written",
            f"name a file that ends in {', '.join(sorted(CONTAINERS))}",
        )
    if not 0 <= settings.quality <= 63:
        raise BadInputError(f"a quality of {settings.quality} is not from 0 to 63", f"use for example {QUALITY}")
    codec = settings.codec or _choose_codec(reader.stream.codec_context.name, container)
    encoder = _find_encoder(codec)
    stream = reader.stream
    takes = [f.name for f in av.codec.Codec(encoder, "w").video_formats or ()]
    options = dict(_OPTIONS.get(encoder, {}))
    if encoder in _RATED:
        options["crf"] = str(settings.quality)
    context = stream.codec_context
    full = 2 if str(stream.format.name).startswith("yuvj") else int(context.color_range)
    return VideoFormat(
        encoder,
        choose_format(stream.format.name, takes),
        stream.width,
        stream.height,
        reader.time_base,
        reader.rate,
        stream.sample_aspect_ratio or None,
        (full, int(context.colorspace), int(context.color_primaries), int(context.color_trc)),
        tuple(sorted(options.items())),
        bool(av.ContainerFormat(container, "w").flags & av.format.Flags.global_header.value),
    )


def _choose_codec(source: str, container: str) -> str:
    """The source's own, where the container is usual for it."""
    if container == "webm":
        return source if source in {"vp8", "vp9", "av1"} else "vp9"
    if container in {"mp4", "mov"} and source not in {
        "h264",
        "hevc",
        "av1",
        *(["prores"] if container == "mov" else []),
    }:
        return "h264"
    return source if source in _ENCODERS else "h264"


def _find_encoder(codec: str) -> str:
    av = import_av()
    name = _ENCODERS.get(codec)
    if name is None:
        raise BadInputError(f"there is no codec {codec!r} to write with", f"use one of {', '.join(_ENCODERS)}")
    try:
        av.codec.Codec(name, "w")
    except (av.FFmpegError, ValueError) as error:
        raise BadInputError(f"this PyAV has no encoder {name}", "take another one with --codec") from error
    return name
