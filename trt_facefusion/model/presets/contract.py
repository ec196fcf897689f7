"""A preset with its values as files: what an engine folder needs, so that the engine can be fed without anything else.

``preset.json`` holds the description, ``projection.npy`` the matrix that embeddings are multiplied with (where the
preset names one), ``input-N.npy`` the fixed values of the N-th input.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import StoreError, TrtFaceFusionError
from trt_facefusion.model.presets.document import describe, read_preset
from trt_facefusion.model.presets.inputs import FileInput
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.storage.arrays import read_npy
from trt_facefusion.storage.documents import parse_json, read_bytes

PRESET_FILE = "preset.json"
PROJECTION_FILE = "projection.npy"
_REMEDY = "Build the engine again with --force."


@dataclass(frozen=True)
class Contract:
    """How to feed an engine and read its picture; ``projection`` is [D,D] where the preset names one."""

    preset: Preset
    projection: NDArray[np.float32] | None = None

    def files(self) -> dict[str, bytes]:
        """The contract as files, name -> content."""
        files = {PRESET_FILE: (json.dumps(describe(self.preset), indent=2) + "\n").encode()}
        if self.projection is not None:
            files[PROJECTION_FILE] = _dump_npy(self.projection)
        for number, spec in enumerate(self.preset.inputs):
            if isinstance(spec, FileInput):
                files[name_values_file(number)] = _dump_npy(spec.values())
        return files

    @classmethod
    def load(cls, folder: Path) -> Contract:
        """Read what `files` wrote into ``folder``.

        Raises:
            StoreError: a file is missing or damaged; the message names the field.
        """
        try:
            document = parse_json(read_bytes(folder / PRESET_FILE))
            preset = read_preset(document, lambda number: folder / name_values_file(number))
            for spec in preset.files:
                spec.values()
            stored = folder / PROJECTION_FILE
            projection = _read_matrix(stored) if stored.exists() else None
        except TrtFaceFusionError as error:
            raise StoreError(f"{folder} does not say how its engine is fed: {error.message}.", _REMEDY) from error
        except (OSError, ValueError, EOFError, RecursionError) as error:
            raise StoreError(f"{folder} does not say how its engine is fed: {error}.", _REMEDY) from error
        return cls(preset, projection)


def _read_matrix(path: Path) -> NDArray[np.float32]:
    matrix = read_npy(path)
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise ValueError(f"{path.name} is no matrix of floats")
    return matrix.astype(np.float32)


def name_values_file(number: int) -> str:
    """The file with the fixed values of the N-th input."""
    return f"input-{number}.npy"


def _dump_npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
