"""A preset with its values as files: what an engine folder needs, so that the engine can be fed without anything else.

``preset.json`` holds the description, ``projection.npy`` the matrix that embeddings are multiplied with (where the
preset names one), ``input-N.npy`` the fixed values of the N-th input.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import StoreError
from trt_facefusion.presets.inputs import EmbeddingInput, FileInput, ImageInput, ImageOutput, InputSpec
from trt_facefusion.presets.preset import Preset

PRESET_FILE = "preset.json"
PROJECTION_FILE = "projection.npy"
_KINDS: Mapping[str, type[InputSpec]] = {"image": ImageInput, "embedding": EmbeddingInput, "file": FileInput}
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
            StoreError: a file is missing or damaged.
        """
        try:
            described = json.loads((folder / PRESET_FILE).read_bytes())
            inputs = [_input(number, entry, folder) for number, entry in enumerate(described["inputs"])]
            output = ImageOutput(**_tuples(described["output"]))
            preset = Preset(described["name"], tuple(inputs), output, described["template"], described["embedder"])
            stored = folder / PROJECTION_FILE
            projection = np.load(stored, allow_pickle=False) if stored.exists() else None
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            raise StoreError(f"{folder} does not say how its engine is fed: {error}.", _REMEDY) from error
        return cls(preset, projection)


def _described(preset: Preset) -> dict[str, Any]:
    inputs = []
    for spec in preset.inputs:
        kind = next(kind for kind, known in _KINDS.items() if isinstance(spec, known))
        fields = {name: value for name, value in asdict(spec).items() if not isinstance(value, Path)}
        inputs.append({"kind": kind, **fields})
    return {
        "name": preset.name,
        "inputs": inputs,
        "output": asdict(preset.output),
        "template": preset.template,
        "embedder": preset.embedder,
    }


def _input(number: int, entry: dict[str, Any], folder: Path) -> InputSpec:
    fields = _tuples({name: value for name, value in entry.items() if name != "kind"})
    if entry["kind"] == "file":
        fields["path"] = folder / _values_file(number)
        np.load(fields["path"], allow_pickle=False)
    return _KINDS[entry["kind"]](**fields)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _values_file(number: int) -> str:
    return f"input-{number}.npy"


def _npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
