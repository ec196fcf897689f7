"""Inputs of a torch module: name, type and shape, and samples of them to calibrate on and to judge on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_facefusion.errors import BadInputError
from trt_facefusion.storage.arrays import read_npz
from trt_facefusion.storage.documents import DocumentError
from trt_facefusion.types import Feeds

DTYPES = ("float32", "int64", "int32", "bool")
"""Types of inputs; floats are cast to the type that a variant computes in."""
DRAWN = 16
"""Sets of inputs that are drawn where no samples are named: half calibrates, half judges."""
_LARGEST_BYTES = 256 << 20
_EXAMPLE = "write NAME:DTYPE:SHAPE, for example x:float32:1000x768"


@dataclass(frozen=True)
class ModuleInput:
    """One argument of ``forward``: its name, NumPy's name of its type, and its whole shape, batch included."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Samples:
    """Sets of inputs: quantisation sees ``calibration`` alone, errors are those on ``judging``."""

    calibration: tuple[Feeds, ...]
    judging: tuple[Feeds, ...]
    text: str


def parse_module_input(text: str) -> ModuleInput:
    """Read ``NAME:DTYPE:SHAPE``.

    Raises:
        BadInputError: it is no such thing, or larger than 256 MiB.
    """
    name, _, rest = text.partition(":")
    dtype, _, shape_text = rest.partition(":")
    if not name.isidentifier() or not re.fullmatch(r"\d+(x\d+)*", shape_text):
        raise BadInputError(f"--input {text!r} is not NAME:DTYPE:SHAPE", _EXAMPLE)
    if dtype not in DTYPES:
        raise BadInputError(f"--input {text!r}: there is no type {dtype!r}", f"take one of {', '.join(DTYPES)}")
    shape = tuple(int(size) for size in shape_text.split("x"))
    if not all(shape) or math.prod(shape) * np.dtype(dtype).itemsize > _LARGEST_BYTES:
        raise BadInputError(f"--input {text!r} is empty, or takes more than 256 MiB", _EXAMPLE)
    return ModuleInput(name, dtype, shape)


def parse_module_inputs(texts: Sequence[str]) -> tuple[ModuleInput, ...]:
    """All inputs, in the order of ``forward``. Raises `BadInputError`: none, or two of one name."""
    inputs = tuple(parse_module_input(text) for text in texts)
    if not inputs:
        raise BadInputError("nothing says what the module takes", f"add --input: {_EXAMPLE}")
    names = [spec.name for spec in inputs]
    if len(set(names)) != len(names):
        raise BadInputError(f"two inputs have one name: {', '.join(names)}", _EXAMPLE)
    return inputs


def make_samples(inputs: Sequence[ModuleInput], file: Path | None = None) -> Samples:
    """Samples from ``file``, or drawn: floats from N(0,1).

    Raises:
        BadInputError: the file holds other arrays, or an input that cannot be drawn has no samples.
    """
    sets = _draw(inputs) if file is None else _read(inputs, file)
    half = len(sets) // 2
    text = "values drawn from N(0,1)" if file is None else f"{len(sets)} samples of {file.name}"
    return Samples(tuple(sets[:half]), tuple(sets[half:]), text)


def _draw(inputs: Sequence[ModuleInput]) -> list[Feeds]:
    others = [spec.name for spec in inputs if spec.dtype != "float32"]
    if others:
        raise BadInputError(
            f"what {', '.join(others)} may hold cannot be guessed", "name samples with --samples FILE.npz"
        )
    rng = np.random.default_rng(0)
    return [{spec.name: rng.standard_normal(spec.shape, np.float32) for spec in inputs} for _ in range(DRAWN)]


def _read(inputs: Sequence[ModuleInput], file: Path) -> list[Feeds]:
    remedy = "save each input under its name as [N, *SHAPE], N at least 2: numpy.savez(FILE, x=...)"
    try:
        arrays = read_npz(file)
    except (DocumentError, OSError) as error:
        raise BadInputError(f"--samples {file}: {error}", remedy) from error
    counts = set()
    for spec in inputs:
        array = arrays.get(spec.name)
        if array is None or array.shape[1:] != spec.shape or array.dtype != np.dtype(spec.dtype):
            have = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise BadInputError(f"--samples {file} has {have} for {spec.name} ({spec.dtype} {spec.shape})", remedy)
        counts.add(len(array))
    if len(counts) != 1 or min(counts) < 2:
        raise BadInputError(f"--samples {file} has {sorted(counts)} samples of its inputs", remedy)
    return [{spec.name: np.ascontiguousarray(arrays[spec.name][n]) for spec in inputs} for n in range(counts.pop())]
