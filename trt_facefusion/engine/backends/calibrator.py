"""TensorRT 10's INT8 calibrators: by default they hand over our own table, on request TensorRT calibrates itself."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from trt_facefusion.engine.backends.callbacks import Stop
from trt_facefusion.engine.backends.uploader import BatchFeed
from trt_facefusion.errors import BuildError
from trt_facefusion.quantization.calibration.table import INT8_MAX, CalibrationTable
from trt_facefusion.types import Progress, silent

if TYPE_CHECKING:
    import tensorrt as trt

ALGORITHMS = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}
"""The name of each calibrator in the first line of a cache."""


def format_header(version: str, algorithm: str) -> str:
    """The first line that TensorRT ``version`` expects of a calibration cache; with another one it calibrates anew.

    The number is major * 10000 + minor * 100 + patch, and was major * 1000 + minor * 100 + patch before version 10.
    """
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    number = major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch
    return f"TRT-{number}-{ALGORITHMS[algorithm]}"


def format_cache(amax: Mapping[str, float], version: str, algorithm: str) -> bytes:
    """``amax`` as the cache that ``read_calibration_cache`` returns to TensorRT ``version``.

    Ranges whose scale is no positive float32 are raised to the smallest one: TensorRT refuses a scale of 0.
    """
    smallest = INT8_MAX * struct.unpack(">f", b"\x00\x80\x00\x00")[0]
    held = {name: max(largest, smallest) for name, largest in amax.items()}
    return CalibrationTable(held, format_header(version, algorithm)).dumps().encode("utf-8")


@dataclass
class CalibrationSource:
    """What a calibrator answers TensorRT's questions from: a finished cache, or batches; and what TensorRT wrote."""

    stop: Stop
    cache: bytes | None = None
    feed: BatchFeed | None = None
    progress: Progress = silent
    total: int = 0
    save: Callable[[bytes], None] | None = None
    written: bytes | None = field(default=None, init=False)

    def batch_size(self) -> int:
        """Samples per batch; 1 where there is only a cache."""
        return self.feed.batch_size if self.feed is not None else 1

    def batch(self, names: Sequence[str]) -> list[int] | None:
        """Device addresses of the next batch in the order of ``names``; None at the end, and when the build stops."""
        if self.feed is None or self.stop.requested:
            return None
        addresses = next(self.feed, None)
        if addresses is None:
            return None
        missing = [name for name in names if name not in addresses]
        if missing:
            raise BuildError(
                f"The calibration batches have no values for the input {missing[0]!r}.",
                f"They hold {', '.join(addresses)}; describe every input of the model with --input.",
            )
        self.progress("calibrate", self.feed.done, self.total)
        return [addresses[name] for name in names]

    def write(self, cache: bytes) -> None:
        """Keep the table that TensorRT made; a calibration that was cut short is none."""
        if self.stop.requested:
            return
        self.written = cache
        if self.save is not None:
            self.save(cache)


class _Answers:
    """The five methods of every calibrator. An exception cannot travel through C++: it is kept, the build ends."""

    source: CalibrationSource

    def get_batch_size(self) -> int:
        return self.source.batch_size()

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        return self.source.stop.guarded(lambda: self.source.batch(names))

    def read_calibration_cache(self) -> bytes | None:
        return self.source.cache

    def write_calibration_cache(self, cache: memoryview) -> None:
        self.source.stop.guarded(lambda: self.source.write(bytes(cache)))


def make_calibrator(api: ModuleType, algorithm: str, source: CalibrationSource) -> trt.IInt8Calibrator:
    """The calibrator of TensorRT 10 that answers from ``source``. The builder holds no reference to it: keep it."""
    trt = api

    class FaceEntropyCalibrator(_Answers, trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.source = source

    class FaceMinMaxCalibrator(_Answers, trt.IInt8MinMaxCalibrator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IInt8MinMaxCalibrator.__init__(self)
            self.source = source

    return {"entropy": FaceEntropyCalibrator, "minmax": FaceMinMaxCalibrator}[algorithm]()
