"""Video frames: decoded one after another, and changed only where a face was pasted.

A frame stays in the planes that the decoder gave. It is looked at as RGB; of what is pasted into that RGB only the
pixels that the mask touches are written back, so that everything else is what it was before it is encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BackendUnavailableError, BadInputError, pip_install
from trt_facefusion.faces.decode import MAX_PIXELS
from trt_facefusion.storage.files import require_regular_file
from trt_facefusion.swap.paste import Patch
from trt_facefusion.types import Image

_PLANAR = re.compile(r"(yuva?4(20|22|44)p|gbra?p|gray)(\d+le)?")
_PACKED_ALPHA = {"rgb24": None, "bgr24": None, "bgr0": 3, "rgb0": 3, "bgra": 3, "rgba": 3, "argb": 0, "abgr": 0}
"""Packed formats, and which byte of a pixel is no colour."""
_FULL_RANGE = {"yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p"}
_JPEG_RANGE = 2


def import_av() -> ModuleType:
    """PyAV. Raises BackendUnavailableError with the command that installs it."""
    try:
        import av
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(f"videos need PyAV: {error}", pip_install("video")) from error
    module: ModuleType = av
    return module


class VideoReader:
    """The frames of the first video stream in ``path``; a context manager.

    Raises:
        BackendUnavailableError: PyAV is not installed.
        BadInputError: no such file, no video in it, or frames of more than 128 megapixels.
    """

    def __init__(self, path: Path) -> None:
        require_regular_file(path, "video")
        self.path, av = path, import_av()
        try:
            self._container: Any = av.open(str(path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._refuse(f"it cannot be opened: {_shorten(error)}") from error
        streams = [s for s in self._container.streams.video if not _is_cover(av, s)]
        if not streams:
            self._container.close()
            raise self._refuse("there is no video in it")
        self.stream = streams[0]
        self.stream.thread_type = "AUTO"
        if not 0 < self.stream.width * self.stream.height <= MAX_PIXELS:
            self._container.close()
            raise self._refuse(f"frames of {self.stream.width}x{self.stream.height} pixels are not read")

    @property
    def time_base(self) -> Fraction:
        """Seconds of one unit of the frames' times."""
        base = self.stream.time_base
        return Fraction(base) if base else 1 / self.rate

    @property
    def rate(self) -> Fraction:
        """Frames per second, as far as the file knows."""
        rate = self.stream.average_rate or self.stream.guessed_rate or self.stream.base_rate
        return Fraction(rate) if rate and 0 < rate <= 1000 else Fraction(25)

    @property
    def count(self) -> int:
        """How many frames the file says it has, perhaps by its duration; 0 where it says nothing."""
        if self.stream.frames:
            return int(self.stream.frames)
        seconds = self._container.duration / 1e6 if self._container.duration else 0.0
        return round(seconds * float(self.rate))

    def read(self) -> Iterator[Any]:
        """All frames, in the order in which they are shown, each with a time later than the one before.

        Raises:
            BadInputError: the file is damaged.
        """
        av = import_av()
        last: int | None = None
        number = 0
        try:
            for frame in self._container.decode(self.stream):
                number += 1
                last = _settle_time(frame, last, self.time_base, self.rate)
                yield frame
        except av.FFmpegError as error:
            raise self._refuse(
                f"it is damaged behind frame {number}: {_shorten(error)}",
                "repair it, or cut off the damaged part, with another program",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse(self, why: str, remedy: str = "name a video that other programs play") -> BadInputError:
        return BadInputError(f"the video {self.path.name} cannot be used: {why}", remedy)


def _settle_time(frame: Any, last: int | None, base: Fraction, rate: Fraction) -> int:
    """Give ``frame`` a time where it has none, or one that is not later than the ``last``."""
    step = max(round(1 / (rate * base)), 1)
    time = frame.pts if frame.pts is not None else (0 if last is None else last + step)
    if last is not None and time <= last:
        time = last + 1
    frame.pts, frame.time_base = time, base
    return int(time)


def _is_cover(av: ModuleType, stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def choose_format(name: str, takes: Sequence[str]) -> str:
    """The pixel format to work in: that of the frames where the encoder ``takes`` it, else the nearest that it takes.

    Raises:
        BadInputError: the encoder takes none that is worked in.
    """
    plain = _FULL_RANGE.get(name, name)
    if (_PLANAR.fullmatch(plain) or plain in _PACKED_ALPHA) and plain in takes:
        return plain
    deep = bool(re.search(r"(9|1[0246])(le|be)?$|p010|p016|x2|48|64", plain))
    colours = plain.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "pal"))
    order = ["yuv420p10le", "yuv422p10le", "yuv420p"] if deep else ["yuv420p", "yuv422p", "yuv444p"]
    order = ["yuv444p10le", *order] if deep and colours else ["bgr0", "gbrp", "yuv444p", *order] if colours else order
    for candidate in (*order, "yuv422p10le", "yuv444p10le"):
        if candidate in takes:
            return candidate
    raise BadInputError(
        f"frames of {name} cannot be written by that encoder", "take another one with --codec, for example h264"
    )


def convert_frame(frame: Any, name: str) -> Any:
    """``frame`` in the pixel format ``name``, its planes its own; times and colours stay."""
    if _FULL_RANGE.get(frame.format.name) == name:
        full = frame.reformat(format=frame.format.name)
        full.color_range = _JPEG_RANGE
        frame = full
    if frame.format.name != name:
        ranged = frame.color_range or None
        converted = frame.reformat(format=name, dst_color_range=ranged, interpolation=_flags())
        converted.pts, converted.time_base = frame.pts, frame.time_base
        return converted
    frame.make_writable()
    return frame


def is_deep(frame: Any) -> bool:
    """Whether its channels have more than 8 bits."""
    return any(component.bits > 8 for component in frame.format.components)


def read_rgb(frame: Any) -> NDArray[Any]:
    """The frame as RGB [H,W,3] uint8, or uint16 where it has more than 8 bits."""
    name = "rgb48le" if is_deep(frame) else "rgb24"
    return np.asarray(frame.to_ndarray(format=name, interpolation=_flags()))


def write_patch(frame: Any, rgb: NDArray[Any], patch: Patch) -> None:
    """Take the pixels that ``patch`` touched from ``rgb`` [H,W,3] into the planes of ``frame``; all others stay."""
    av, region = import_av(), patch.region
    touched = patch.weights > 0
    colours = np.ascontiguousarray(rgb[region.rows, region.columns])
    source = av.VideoFrame.from_ndarray(colours, format="rgb48le" if colours.dtype == np.uint16 else "rgb24")
    converted = source.reformat(
        format=frame.format.name,
        dst_colorspace=frame.colorspace,
        dst_color_range=frame.color_range or None,
        interpolation=_flags(),
    )
    for plane, part, colour in zip(frame.planes, converted.planes, _list_colour_planes(frame), strict=True):
        if colour is None:
            continue
        step_x, step_y, channels = colour
        pixels, patched = view_plane(plane, frame, channels), view_plane(part, converted, channels)
        under = _shrink(touched, step_x, step_y)
        rows = slice(region.top // step_y, region.top // step_y + under.shape[0])
        columns = slice(region.left // step_x, region.left // step_x + under.shape[1])
        pixels[rows, columns][under] = patched[: under.shape[0], : under.shape[1]][under]


def view_plane(plane: Any, frame: Any, channels: Sequence[int]) -> NDArray[Any]:
    """The samples of ``plane`` [h,w,channels], without its padding; writing to them changes the frame."""
    kind = np.dtype("<u2") if is_deep(frame) else np.dtype(np.uint8)
    packed = _count_packed(frame)
    lines = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
    samples = lines[:, : plane.width * packed].reshape(plane.height, plane.width, packed)
    return samples[..., channels[0] : channels[-1] + 1]


def _count_packed(frame: Any) -> int:
    name = frame.format.name
    return 1 if name not in _PACKED_ALPHA else 3 if name in {"rgb24", "bgr24"} else 4


def _list_colour_planes(frame: Any) -> list[tuple[int, int, Sequence[int]] | None]:
    """For each plane how many pixels one sample of it covers, across and down, and which bytes of it are colours."""
    if frame.format.name in _PACKED_ALPHA:
        other = _PACKED_ALPHA[frame.format.name]
        return [(1, 1, [c for c in range(_count_packed(frame)) if c != other])]
    planes: list[tuple[int, int, Sequence[int]] | None] = [None] * len(frame.planes)
    for component in frame.format.components:
        if not component.is_alpha:
            across = 2 if component.width < frame.width else 1
            down = 2 if component.height < frame.height else 1
            planes[component.plane] = (across, down, [0])
    return planes


def _shrink(touched: NDArray[np.bool_], across: int, down: int) -> NDArray[np.bool_]:
    """Which samples cover a touched pixel."""
    if across == down == 1:
        return touched
    height, width = -(-touched.shape[0] // down), -(-touched.shape[1] // across)
    padded = np.zeros((height * down, width * across), bool)
    padded[: touched.shape[0], : touched.shape[1]] = touched
    return np.asarray(padded.reshape(height, down, width, across).any(axis=(1, 3)))


def count_turns(frame: Any) -> int:
    """By how many quarter turns to the left the frame must be turned to stand upright."""
    rotation = int(frame.rotation or 0)
    return rotation // 90 % 4 if rotation % 90 == 0 else 0


def turn_left(image: Image, turns: int) -> Image:
    """``image`` [H,W,3] turned to the left by quarter turns."""
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def turn_points_back(points: NDArray[np.float32], turns: int, height: int, width: int) -> NDArray[np.float32]:
    """``points`` [K,2] of an image that was turned to the left by `turn_left`, in the [height,width] one before."""
    across, down = points[:, 0], points[:, 1]
    back = {
        0: (across, down),
        1: (width - 1 - down, across),
        2: (width - 1 - across, height - 1 - down),
        3: (down, height - 1 - across),
    }
    return np.stack(back[turns], axis=1).astype(np.float32)


def _flags() -> Any:
    from av.video.reformatter import Interpolation

    return Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def _shorten(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
