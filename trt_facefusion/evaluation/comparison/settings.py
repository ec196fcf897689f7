"""What two models are compared by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.evaluation.comparison.layers import BUDGET_BYTES
from trt_facefusion.model.presets import Preset


@dataclass(frozen=True)
class DiffSettings:
    """What ``trt-ff diff`` was told. ``a`` is the reference.

    ``preset`` describes the inputs of bare ONNX files; ``max_faces`` and ``layer_faces`` of 0 take every face.
    ``stand_in`` None lets the typed ONNX stand in for a GPU engine where there is no GPU. ``layer_faces`` are the faces
    that layers are compared on, ``raised`` is the number of layers whose gain is measured.
    ``lpips_backbone`` has pictures judged by the classic LPIPS, too.
    """

    a: Path
    b: Path
    faces: Path
    preset: Preset | None = None
    aligned: bool = False
    embedder: Path | None = None
    converter: Path | None = None
    max_faces: int = 64
    stand_in: bool | None = None
    device: int = 0
    layers: bool = False
    layer_faces: int = 8
    raised: int = 12
    budget_bytes: int = BUDGET_BYTES
    max_ssim_drop: float | None = None
    atol: float | None = None
    save: Path | None = None
    lpips_backbone: Path | None = None
