"""The calibration table: tensor -> amax, in the text format of TensorRT's calibration cache."""

from __future__ import annotations

import codecs
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.storage.files import require_regular_file

HEADER = "TRT-101601-EntropyCalibration2"
INT8_MAX = 127
"""The largest INT8 value, which amax maps to: scale = amax / 127. Grids are symmetric: -127..127."""

_HEADER = re.compile(r"TRT-\d\w*-[A-Za-z]\w*")
_LINE = re.compile(r"(.+):[ \t]+(.*)", re.DOTALL)
"""Editors turn the blank behind the colon into a tab; names may hold colons and blanks themselves."""
_HEX = re.compile(r"[0-9a-fA-F]{1,8}")
_SMALLEST_NORMAL = 2.0**-126
_REMEDY = "restore the file, or delete it and calibrate again"


@dataclass(frozen=True)
class CalibrationTable(Mapping[str, float]):
    """A mapping from tensor names to amax (positive, finite); the order is kept.

    The text form is what ``IInt8EntropyCalibrator2.read_calibration_cache`` takes: ``header``, then a line
    ``name: hex`` for each tensor, where hex is the big-endian float32 of ``amax / 127``. ``zeros`` are tensors that the
    text gives a scale of 0: calibration saw nothing else in them, so that they have no range. They are not written.
    """

    amax: Mapping[str, float] = field(default_factory=dict)
    header: str = HEADER
    zeros: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.amax[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.amax)

    def __len__(self) -> int:
        return len(self.amax)

    def dumps(self) -> str:
        """The text form.

        Raises:
            CalibrationCacheError: a name or an amax that the format cannot hold.
        """
        return "\n".join([self.header, *(_format_line(name, amax) for name, amax in self.amax.items())]) + "\n"

    @classmethod
    def loads(cls, text: str, source: str = "the calibration cache") -> CalibrationTable:
        """Read the text form, from any TensorRT version and calibrator, with what editors do to it: blanks at the ends
        of lines, carriage returns, a byte order mark.

        Raises:
            CalibrationCacheError: a missing header, a damaged line, a scale that is negative or not finite, or a name
                that occurs twice with two scales; the message begins with ``source`` and the line's number.
        """
        header, *lines = (line.rstrip() for line in text.removeprefix("\ufeff").split("\n"))
        if not _HEADER.fullmatch(header.lstrip()):
            raise _make_damage_error(source, 1, f"a header such as {HEADER} is missing (found {header[:60]!r})")
        scales: dict[str, float] = {}
        for number, line in enumerate(lines, start=2):
            if not line:
                continue
            name, scale = _parse_line(line, source, number, cut_off=number > len(lines))
            if scales.setdefault(name, scale) != scale:
                raise _make_damage_error(source, number, f"{name!r} occurs twice, with two scales")
        amax = {name: scale * INT8_MAX for name, scale in scales.items() if scale}
        return cls(amax, header.lstrip(), tuple(name for name, scale in scales.items() if not scale))

    @classmethod
    def read(cls, path: Path) -> CalibrationTable:
        """The table in the file ``path``.

        Raises:
            CalibrationCacheError: the file cannot be read, or is damaged.
        """
        require_regular_file(path, "calibration cache", CalibrationCacheError)
        try:
            content = path.read_bytes()
            utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell redirects
            return cls.loads(content.decode("utf-16" if utf16 else "utf-8"), str(path))
        except OSError as error:
            raise CalibrationCacheError(
                f"cannot read the calibration cache {path}: {error.strerror}", "name a cache file, or calibrate again"
            ) from error
        except UnicodeDecodeError as error:
            raise CalibrationCacheError(f"{path} is not a calibration cache: it is not text", _REMEDY) from error


def _format_line(name: str, amax: float) -> str:
    scale = amax / INT8_MAX
    try:
        packed = struct.pack(">f", scale)
    except OverflowError:
        packed = struct.pack(">f", math.inf)
    if not 0 < struct.unpack(">f", packed)[0] < math.inf:
        raise CalibrationCacheError(
            f"the range {amax} of {name!r} is not a positive float32", "calibrate this tensor again"
        )
    if not name or "\n" in name:
        raise CalibrationCacheError(
            f"the tensor name {name!r} cannot be written to a calibration cache", "rename the tensor in the model"
        )
    return f"{name}: {packed.hex()}"


def _parse_line(line: str, source: str, number: int, cut_off: bool) -> tuple[str, float]:
    """Name and scale. ``cut_off``: the file's last line, where no line end shows that all digits are there.

    TensorRT writes no leading zeros: a scale of 0 is the digit ``0``, and a normal number has six digits at least.
    """
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise _make_damage_error(source, number, f"expected 'name: hex', found {line[:60]!r}")
    name, digits = parts.groups()
    if not _HEX.fullmatch(digits) or (cut_off and len(digits) < 8):
        raise _make_damage_error(source, number, f"the scale of {name!r} is not eight hex digits but {digits[:20]!r}")
    scale: float = struct.unpack(">f", bytes.fromhex(digits.zfill(8)))[0]
    if 0 < scale < _SMALLEST_NORMAL and len(digits) < 8:
        raise _make_damage_error(source, number, f"the scale of {name!r} is not eight hex digits but {digits[:20]!r}")
    if not 0 <= scale < math.inf:
        raise CalibrationCacheError(
            f"{source}, line {number}: the scale {scale} of {name!r} is not positive and finite",
            "delete the line (the tensor is then not quantised), or calibrate again",
        )
    return name, scale


def _make_damage_error(source: str, number: int, what: str) -> CalibrationCacheError:
    return CalibrationCacheError(f"{source}, line {number}: {what}", _REMEDY)
