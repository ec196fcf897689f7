"""Which network embeds the faces that a generator is fed with."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.converter import EmbeddingConverter
from trt_facefusion.faces.embedder import ArcFaceEmbedder, DlibEmbedder, Embedder
from trt_facefusion.model.presets import Preset


def open_embedder(preset: Preset, embedder: Path | None, converter: Path | None = None) -> Embedder:
    """The embedder whose vectors a generator takes: the ONNX file ``embedder``, else dlib's; with its converter.

    Raises:
        BadInputError: the generator takes ArcFace's or converted vectors, and no file is named; or a converter is named
            that it does not take, or that takes vectors of another length.
        ModelError: a file is no such network.
    """
    opened = _open_converter(preset, converter)
    network = _open_embedder(preset, embedder, opened)
    if opened is not None and opened.source_dim != network.dim:
        raise BadInputError(
            f"{opened.path.name} converts vectors of {opened.source_dim} values, and those of {network.name} have "
            f"{network.dim}",
            "name the embedder that it was trained with, with --embedder",
        )
    return network


def _open_converter(preset: Preset, converter: Path | None) -> EmbeddingConverter | None:
    name = preset.embedding.converter if preset.embedding is not None else None
    if converter is None and name is not None:
        raise BadInputError(
            f"the preset {preset.name!r} takes vectors of another recogniser, which {name} makes of ArcFace's",
            f"name the ONNX file of {name} with --converter",
        )
    if converter is not None and name is None:
        raise BadInputError(
            f"the preset {preset.name!r} takes no converted embeddings, and --converter is given",
            "leave it out, or describe the input with --input NAME=embedding:converter=CALLED",
        )
    return None if converter is None else EmbeddingConverter(converter)


def _open_embedder(preset: Preset, embedder: Path | None, converter: EmbeddingConverter | None) -> Embedder:
    if embedder is not None:
        return ArcFaceEmbedder(embedder, converter)
    if preset.embedder == "arcface" and preset.embedding is not None:
        raise BadInputError(
            f"the preset {preset.name!r} takes ArcFace embeddings, and that embedder is not bundled",
            "name its ONNX file (w600k_r50.onnx of InsightFace's buffalo_l) with --embedder",
        )
    return DlibEmbedder(converter)
