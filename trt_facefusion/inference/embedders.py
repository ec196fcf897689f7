"""Which network embeds the faces that a generator is fed with."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.embedder import ArcFaceEmbedder, DlibEmbedder, Embedder
from trt_facefusion.model.presets import Preset


def open_embedder(preset: Preset, embedder: Path | None) -> Embedder:
    """The embedder whose vectors a generator takes: the ONNX file ``embedder``, else dlib's.

    Raises:
        BadInputError: the generator takes ArcFace's vectors, and no file is named.
    """
    if embedder is not None:
        return ArcFaceEmbedder(embedder)
    if preset.embedder == "arcface" and preset.embedding is not None:
        raise BadInputError(
            f"the preset {preset.name!r} takes ArcFace embeddings, and that embedder is not bundled",
            "name its ONNX file (w600k_r50.onnx of InsightFace's buffalo_l) with --embedder",
        )
    return DlibEmbedder()
