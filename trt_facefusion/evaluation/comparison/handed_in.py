"""The file that a stored engine was built from, found by its manifest, for whoever compares engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.evaluation.accuracy.agreement import Agreement, measure_agreement
from trt_facefusion.inference.original import Original, fix_original_noise
from trt_facefusion.model.export import OnnxSource, load_model
from trt_facefusion.model.graph.noise import parse_noise
from trt_facefusion.types import Note

Pictures = NDArray[np.float32]


@dataclass(frozen=True)
class AgainstFile:
    """Pictures held against those of the file that an engine was built from, on the same faces.

    ``a`` and ``b`` are the two sides' figures; ``prepared`` is what the build noted of the prepared network (see
    `Agreement`), None in manifests of earlier versions.
    """

    path: Path
    reference: str
    a: Agreement
    b: Agreement
    prepared: Mapping[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "reference": self.reference,
            "a": self.a.as_dict(),
            "b": self.b.as_dict(),
            "prepared": None if self.prepared is None else dict(self.prepared),
        }


def find_original(manifest: Manifest, shapes: Mapping[str, Sequence[int]], note: Note) -> Original | None:
    """The ONNX file that an engine was built from, where it still is what it was; says so where it is not.

    ``shapes`` are the inputs' without batch axis.
    """
    path = _read_option(manifest, "--onnx")
    if path is None:
        return None
    source = OnnxSource(Path(path))
    try:
        if source.digest() != manifest.inputs.model_sha256:
            note(f"{path} is not the file any more that the engine was built from: not compared with it")
            return None
        loaded, noise = load_model(source.path), _read_option(manifest, "--noise")
        if noise is None:
            return Original(source, loaded)
        return fix_original_noise(source, loaded, parse_noise(noise), shapes)
    except TrtFaceFusionError as error:
        note(f"not compared with the file that the engine was built from: {error.message}")
        return None


def _read_option(manifest: Manifest, name: str) -> str | None:
    words = manifest.command
    places = [index for index, word in enumerate(words[:-1]) if word == name]
    return words[places[0] + 1] if places else None


def compare_with_original(
    original: Original, manifest: Manifest, pictures: Pictures, a: Pictures, b: Pictures
) -> AgainstFile:
    """Hold both sides' pictures [N,H,W,3] against those of the file, which must be finite."""
    prepared = manifest.accuracy.get("prepared")
    path = original.source.original()
    assert isinstance(path, Path)
    noted = prepared if isinstance(prepared, Mapping) else None
    return AgainstFile(path, original.label, measure_agreement(pictures, a), measure_agreement(pictures, b), noted)
