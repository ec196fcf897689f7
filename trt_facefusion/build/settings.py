"""What a build is asked for, and the key that says whether it was done already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_facefusion import __version__
from trt_facefusion.build.effort import AUTO, MINUTES
from trt_facefusion.engine.backends.base import BuildOptions
from trt_facefusion.engine.store.manifest import build_key
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy.gate import Limits
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.model.export import ModelSource
from trt_facefusion.model.graph.noise import parse_noise
from trt_facefusion.model.presets import Preset
from trt_facefusion.types import BatchRange, Precision

CHANNEL_CORRECTIONS = ("equalise", "shift")
"""Corrections of channels, in front of the quantiser."""
LAYER_CORRECTIONS = ("scales", "rounding", "bias")
"""Corrections of a layer's weights and bias."""
PLANNERS = ("auto", "rules")
"""Where a plan comes from: searched by measurement, or from rules alone."""


@dataclass(frozen=True)
class BuildSettings:
    """Everything that ``trt-ff build`` was told.

    ``max_calib`` and ``max_eval`` of 0 take every face; ``table`` is a calibration cache to use instead of calibrating.
    ``table_file`` is where the calibration is written, if not under its name in ``cache``. Without ``hold_out`` nobody
    is kept for verification. ``limits`` are those that an INT8 engine has to keep beside the usual ones, or in their
    place (`Limits`). ``planner`` is one of ``PLANNERS``, for where no ``plan`` is named; ``search_faces`` of 0 leaves
    their number to the search. ``noise`` fixes random nodes (`parse_noise`). ``effort`` is one of `build.effort`, or
    ``auto``: then what is tried is cut so that the build takes ``minutes`` or so (0: no limit).
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
    planner: str = "auto"
    rule: str = "auto"
    corrections: str = "auto"
    output: Path = Path("engines")
    cache: Path = Path("calib_cache")
    limits: Mapping[str, float] = field(default_factory=dict)
    search_faces: int = 0
    effort: str = AUTO
    minutes: float = MINUTES
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
    noise: str | None = None

    def gate(self, precision: Precision) -> Limits:
        """The accuracy gate of one precision; the limits that the user named are INT8's."""
        default = Limits.default(precision)
        return default.changed(self.limits) if precision is Precision.INT8 else default

    def open_embedder(self) -> Embedder:
        """The embedder whose vectors the generator takes (dlib's where it takes none)."""
        return open_embedder(self.preset, self.embedder)


def parse_corrections(text: str) -> frozenset[str] | None:
    """The corrections that ``text`` names (``shift,bias`` or ``none``); None for ``auto``. A shift needs ``equalise``.

    Raises:
        BadInputError: there is no such correction.
    """
    if text == "auto":
        return None
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip()) - {"none"}
    unknown = sorted(wanted - {*CHANNEL_CORRECTIONS, *LAYER_CORRECTIONS})
    if unknown or not text.strip():
        raise BadInputError(
            f"there is no correction {', '.join(unknown) or text!r}",
            f"use auto, none, or some of {', '.join((*CHANNEL_CORRECTIONS, *LAYER_CORRECTIONS))}, with commas between",
        )
    return wanted | ({"equalise"} if "shift" in wanted else frozenset())


def engine_key(settings: BuildSettings, digests: Mapping[str, str], precision: Precision) -> str:
    """Digest of all that decides what the engine of ``precision`` is; equal key, equal engine."""
    return build_key(
        {
            "tool": __version__,
            "judged": "against what was handed in, in the batch that is built",
            "name": settings.source.name,
            "preset": repr(settings.preset),
            "batch": str(settings.batch),
            "precision": precision.value,
            "gate": repr(settings.gate(precision)),
            "planner": _planning(settings, precision),
            "rule": settings.rule,
            "corrections": settings.corrections,
            "repairs": settings.repairs,
            "limits": [settings.max_calib, settings.max_eval],
            "options": [repr(settings.options), settings.workspace_bytes],
            # With --recalibrate TensorRT 10 takes its own table.
            "own_table": settings.recalibrate and digests.get("backend", "").startswith("tensorrt 10"),
            **({} if settings.noise is None else {"noise": str(parse_noise(settings.noise))}),
            **_effort(settings, precision),
            **digests,
        }
    )


def _planning(settings: BuildSettings, precision: Precision) -> list[object]:
    """What decides where a plan of ``precision`` comes from."""
    if precision is not Precision.INT8:
        return []
    return [settings.planner, settings.search_faces, "max_ssim_drop" in settings.limits]


def _effort(settings: BuildSettings, precision: Precision) -> dict[str, object]:
    """What was said of effort and time, where that may decide what an engine is."""
    said = {} if settings.effort == AUTO else {"effort": settings.effort}
    timed = {} if settings.minutes == MINUTES or said else {"minutes": settings.minutes}
    return {**said, **timed} if precision is Precision.INT8 else {}
