"""What a build is asked for, and the key that says whether it was done already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_facefusion import __version__
from trt_facefusion.accuracy.gate import Gate
from trt_facefusion.backends.base import BuildOptions
from trt_facefusion.errors import BadInputError
from trt_facefusion.export import ModelSource
from trt_facefusion.faces.embedder import ArcFaceEmbedder, DlibEmbedder, Embedder
from trt_facefusion.presets import Preset
from trt_facefusion.store.manifest import build_key
from trt_facefusion.types import BatchRange, Precision


@dataclass(frozen=True)
class BuildSettings:
    """Everything that ``trt-ff build`` was told.

    ``max_*`` of 0 takes every face; ``table`` is a calibration cache to use instead of calibrating. ``table_file`` is
    where the calibration is written, if not under its name in ``cache``. Without ``hold_out`` nobody is kept for
    verification.
    """

    source: ModelSource
    preset: Preset
    precisions: tuple[Precision, ...]
    calib: Path
    eval: Path | None = None
    aligned: bool = False
    embedder: Path | None = None
    backend: str = "auto"
    target: str | None = None
    batch: BatchRange = field(default_factory=BatchRange)
    plan: Path | None = None
    rule: str = "auto"
    output: Path = Path("engines")
    cache: Path = Path("calib_cache")
    max_ssim_drop: float | None = None
    repairs: int = 3
    max_calib: int = 300
    max_eval: int = 128
    strict: bool = False
    force: bool = False
    recalibrate: bool = False
    table: Path | None = None
    table_file: Path | None = None
    hold_out: bool = True
    options: BuildOptions = field(default_factory=BuildOptions)
    workspace_bytes: int | None = None

    def gate(self, precision: Precision) -> Gate:
        """The accuracy gate of one precision; ``max_ssim_drop`` replaces INT8's default only."""
        if precision is Precision.INT8 and self.max_ssim_drop is not None:
            return Gate(max_ssim_drop=self.max_ssim_drop)
        return Gate.default(precision)

    def open_embedder(self) -> Embedder:
        """The embedder whose vectors the generator takes (dlib's where it takes none)."""
        return open_embedder(self.preset, self.embedder)


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


def engine_key(settings: BuildSettings, digests: Mapping[str, str], precision: Precision) -> str:
    """Digest of all that decides what the engine of ``precision`` is; equal key, equal engine."""
    return build_key(
        {
            "tool": __version__,
            "name": settings.source.name,
            "preset": repr(settings.preset),
            "batch": str(settings.batch),
            "precision": precision.value,
            "gate": repr(settings.gate(precision)),
            "rule": settings.rule,
            "repairs": settings.repairs,
            "limits": [settings.max_calib, settings.max_eval],
            "options": [repr(settings.options), settings.workspace_bytes],
            # With --recalibrate TensorRT 10 takes its own table.
            "own_table": settings.recalibrate and digests.get("backend", "").startswith("tensorrt 10"),
            **digests,
        }
    )
