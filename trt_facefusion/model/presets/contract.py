"""A preset with its values as files: what an engine folder needs, so that the engine can be fed without anything else.

``preset.json`` holds the description, ``projection.npy`` the matrix that embeddings are multiplied with (where the
preset names one), ``input-N.npy`` the fixed values of the N-th input.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import StoreError, TrtFaceFusionError
from trt_facefusion.model.presets.inputs import (
    SIDES,
    SOURCE,
    TARGET,
    EmbeddingInput,
    FileInput,
    ImageInput,
    InputSpec,
    Part,
    ValueInput,
)
from trt_facefusion.model.presets.output import ImageOutput
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.model.presets.terse import Terse
from trt_facefusion.storage.arrays import read_npy
from trt_facefusion.storage.documents import parse_json, read_bytes

PRESET_FILE = "preset.json"
PROJECTION_FILE = "projection.npy"
_KINDS: Mapping[str, type[InputSpec]] = {
    "image": ImageInput,
    "embedding": EmbeddingInput,
    "file": FileInput,
    "value": ValueInput,
}
_REMEDY = "Build the engine again with --force."


@dataclass(frozen=True)
class Contract:
    """How to feed an engine and read its picture; ``projection`` is [D,D] where the preset names one."""

    preset: Preset
    projection: NDArray[np.float32] | None = None

    def files(self) -> dict[str, bytes]:
        """The contract as files, name -> content."""
        files = {PRESET_FILE: (json.dumps(_described(self.preset), indent=2) + "\n").encode()}
        if self.projection is not None:
            files[PROJECTION_FILE] = _npy(self.projection)
        for number, spec in enumerate(self.preset.inputs):
            if isinstance(spec, FileInput):
                files[_values_file(number)] = _npy(spec.values())
        return files

    @classmethod
    def load(cls, folder: Path) -> Contract:
        """Read what `files` wrote into ``folder``.

        Raises:
            StoreError: a file is missing or damaged; the message names the field.
        """
        try:
            described = parse_json(read_bytes(folder / PRESET_FILE))
            preset = _preset(described, folder)
            for spec in preset.files:
                spec.values()
            stored = folder / PROJECTION_FILE
            projection = _matrix(stored) if stored.exists() else None
        except TrtFaceFusionError as error:
            raise StoreError(f"{folder} does not say how its engine is fed: {error.message}.", _REMEDY) from error
        except (OSError, ValueError, EOFError, RecursionError) as error:
            raise StoreError(f"{folder} does not say how its engine is fed: {error}.", _REMEDY) from error
        return cls(preset, projection)


def _matrix(path: Path) -> NDArray[np.float32]:
    matrix = read_npy(path)
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise ValueError(f"{path.name} is no matrix of floats")
    return matrix.astype(np.float32)


def _described(preset: Preset) -> dict[str, Any]:
    inputs = []
    for spec in preset.inputs:
        kind = next(kind for kind, known in _KINDS.items() if isinstance(spec, known))
        said = spec.said() if isinstance(spec, Terse) else asdict(spec)
        values = {name: value for name, value in said.items() if not isinstance(value, Path)}
        if isinstance(spec, ImageInput) and spec.parts:
            values["parts"] = [asdict(part) for part in spec.parts]
        inputs.append({"kind": kind, **values})
    return {
        "name": preset.name,
        "inputs": inputs,
        "output": preset.output.said(),
        "template": preset.template,
        "embedder": preset.embedder,
    }


def _preset(described: Any, folder: Path) -> Preset:
    """Raises ValueError: the text names the field."""
    _require(isinstance(described, dict), PRESET_FILE, described)
    inputs = described.get("inputs")
    _require(isinstance(inputs, list), "inputs", inputs)
    for name in ("name", "template", "embedder"):
        _require(isinstance(described.get(name), str), name, described.get(name))
    specs = tuple(_input(number, entry, folder) for number, entry in enumerate(inputs))
    names = [spec.name for spec in specs]
    _require(len(set(names)) == len(names), "inputs: one name twice", names)
    output = ImageOutput(**_checked(ImageOutput, described.get("output"), "output"))
    return Preset(described["name"], specs, output, described["template"], described["embedder"])


def _input(number: int, entry: Any, folder: Path) -> InputSpec:
    where = f"inputs[{number}]"
    _require(isinstance(entry, dict), where, entry)
    kind = entry.get("kind")
    _require(isinstance(kind, str) and kind in _KINDS, f"{where}.kind", kind)
    given = {name: value for name, value in entry.items() if name != "kind"}
    if kind == "file":
        given["path"] = folder / _values_file(number)
    return _KINDS[kind](**_checked(_KINDS[kind], given, where))


def _require(right: bool, where: str, value: Any) -> None:
    if not right:
        raise ValueError(f"{where} is {str(value)[:80]!r} in {PRESET_FILE}")


def _checked(kind: type[Any], given: Any, where: str) -> dict[str, Any]:
    """The fields of the dataclass ``kind``, each held against what it may hold."""
    _require(isinstance(given, dict), where, given)
    known = {field.name for field in fields(kind)}
    _require(given.keys() <= known, f"{where}: unknown fields", ", ".join(map(str, given.keys() - known)))
    _require(kind is ImageOutput or "name" in given, f"{where}.name", None)
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "parts":
            _require(isinstance(value, list), f"{where}.parts", value)
            found[name] = tuple(Part(**_checked_part(part, f"{where}.parts[{i}]")) for i, part in enumerate(value))
        else:
            _require(_FIELDS[name](value), f"{where}.{name}", value)
            found[name] = tuple(value) if isinstance(value, list) else value
    if kind is ImageInput:
        _require("size" in found, f"{where}.size", None)
    if kind is ValueInput:
        _require("value" in found, f"{where}.value", None)
    _require(all(std for std in found.get("std", (1,))), f"{where}.std", found.get("std"))
    if kind is ImageOutput:
        _require(found.get("name", "") != "", f"{where}.name", "")
    else:
        _require(isinstance(found["name"], str), f"{where}.name", found["name"])
    return found


def _checked_part(given: Any, where: str) -> dict[str, Any]:
    _require(isinstance(given, dict) and given.keys() <= {"person", "masked", "share"}, where, given)
    for name, value in given.items():
        right = _is_number(value) and 0 < value <= 1 if name == "share" else _PART[name](value)
        _require(right, f"{where}.{name}", value)
    return dict(given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 8192


def _is_triple(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


_PART: Mapping[str, Callable[[Any], bool]] = {
    "person": lambda value: value in (TARGET, SOURCE),
    "masked": lambda value: value in ("", *SIDES),
}
_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "size": _is_side,
    "width": lambda value: value is None or _is_side(value),
    "mean": _is_triple,
    "std": _is_triple,
    **dict.fromkeys(("bgr", "gray", "nhwc", "normalise", "ranged"), _is_flag),
    "template": _is_text,
    "projection": _is_text,
    "person": lambda value: value in (TARGET, SOURCE),
    "value": _is_number,
    "path": lambda value: isinstance(value, Path),
}


def _values_file(number: int) -> str:
    return f"input-{number}.npy"


def _npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
