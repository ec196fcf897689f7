"""Clips made of the project's own sample faces, with sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

RATE = 25
SOUND_HZ = 48_000


def draw_frame(face: NDArray[np.uint8], number: int, width: int, height: int) -> NDArray[np.uint8]:
    """A frame [height,width,3] with ``face`` moving, turning and growing over a coloured ground."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    ground = np.stack([across * 200, down * 180, np.full_like(across, 90)], axis=2).astype(np.uint8)
    phase = 2 * np.pi * number / 100
    scale = height / face.shape[0] * (0.62 + 0.1 * np.sin(phase))
    matrix = cv2.getRotationMatrix2D((face.shape[1] / 2, face.shape[0] / 2), 12 * np.sin(phase / 2), scale)
    matrix[:, 2] += (width / 2 + 0.2 * width * np.cos(phase) - face.shape[1] / 2, height / 2 - face.shape[0] / 2)
    inside = cv2.warpAffine(np.ones(face.shape[:2], np.float32), matrix, (width, height)) > 0.99
    ground[inside] = cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_LINEAR)[inside]
    return ground


def make_clip(
    path: Path,
    face: NDArray[np.uint8],
    frames: int = 30,
    width: int = 320,
    height: int = 180,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: str | None = "aac",
    rotation: int = 0,
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
) -> Path:
    """Write a clip; ``times`` are those of the frames in milliseconds, evenly spaced where none are given.

    With ``rotation`` the frames lie on their side, and players turn them back to the left by as many degrees.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=RATE, options=options or {})
        video.pix_fmt = pixels
        turned = rotation % 180 != 0
        video.width, video.height = (height, width) if turned else (width, height)
        video.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream(sound, rate=SOUND_HZ, layout="mono") if sound else None
        for number in range(frames):
            drawn = np.ascontiguousarray(np.rot90(draw_frame(face, number, width, height), -rotation // 90))
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            frame.pts = times[number] if times else number * 1000 // RATE
            frame.time_base = Fraction(1, 1000)
            container.mux(video.encode(frame))
            if audio is not None:
                container.mux(audio.encode(_draw_sound(number)))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def _draw_sound(number: int) -> av.AudioFrame:
    count = SOUND_HZ // RATE
    place = np.arange(number * count, (number + 1) * count)
    wave = (np.sin(2 * np.pi * 440 * place / SOUND_HZ) * 0.3).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_HZ, number * count, Fraction(1, SOUND_HZ)
    return frame


def read_frames(path: Path, name: str = "rgb24") -> list[NDArray[np.uint8]]:
    """All frames."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=name) for frame in container.decode(video=0)]


def read_times(path: Path) -> list[float]:
    """The times of all frames in seconds."""
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def read_sound(path: Path) -> list[tuple[float, bytes]]:
    """The packets of the sound: times in seconds, and contents."""
    with av.open(str(path)) as container:
        packets = container.demux(audio=0)
        return [(float(p.pts * p.time_base), bytes(p)) for p in packets if p.size]
