"""What a build is asked for, and the key that says whether it was done already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

from trt_facefusion import __version__
from trt_facefusion.build.effort import AUTO, MINUTES
from trt_facefusion.build.options import (
    AccuracyOptions,
    CacheOptions,
    EffortOptions,
    EngineOptions,
    FaceOptions,
    KeyRole,
    NetworkOptions,
    OutsideKey,
    RangeOptions,
    read_defaults,
    read_key_roles,
)
from trt_facefusion.engine.backends.base import BuildOptions
from trt_facefusion.engine.backends.registry import calibrates_itself
from trt_facefusion.engine.store.manifest import build_key
from trt_facefusion.evaluation.accuracy.gate import Limits
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.model.export import ModelSource
from trt_facefusion.model.graph.noise import parse_noise
from trt_facefusion.model.presets import Preset
from trt_facefusion.types import BatchRange, Precision

FACTORS = "factors"
"""How the digest of a GPU's fitted factors is called: a searched plan is made by them."""
PLANNERS = ("auto", "rules")
"""Where a plan comes from: searched by measurement, or from rules alone."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings(
    FaceOptions, NetworkOptions, EngineOptions, RangeOptions, AccuracyOptions, EffortOptions, CacheOptions
):
    """Everything that ``trt-ff build`` was told: what the shared options say (`build.options`), and what follows.

    ``planner`` is one of ``PLANNERS``, for where no ``plan`` is named. ``table_file`` is where the calibration is
    written, if not under its name in ``cache``. Without ``hold_out`` nobody is kept for verification.

    A field that does not say what it has to do with the key of an engine is part of it (`KeyRole.ADDED`).
    """

    source: Annotated[ModelSource, KeyRole.SPELLED]
    preset: Annotated[Preset, KeyRole.SPELLED]
    precisions: Annotated[
        tuple[Precision, ...],
        OutsideKey("each precision has a key of its own; how many are asked for only shares out the time"),
    ]
    batch: Annotated[BatchRange, KeyRole.SPELLED] = field(default_factory=BatchRange)
    plan: Annotated[Path | None, KeyRole.SPELLED] = None
    planner: Annotated[str, KeyRole.SPELLED] = "auto"
    output: Annotated[Path, OutsideKey("where engines are stored")] = Path("engines")
    strict: Annotated[bool, OutsideKey("it refuses engines, and changes none")] = False
    force: Annotated[bool, OutsideKey("it builds the same engine again")] = False
    recalibrate: Annotated[bool, KeyRole.SPELLED] = False
    table_file: Annotated[Path | None, OutsideKey("where a calibration is written")] = None
    hold_out: bool = True
    options: Annotated[BuildOptions, KeyRole.SPELLED] = field(default_factory=BuildOptions)
    workspace_bytes: Annotated[int | None, KeyRole.SPELLED] = None

    def choose_gate(self, precision: Precision) -> Limits:
        """The accuracy gate of one precision; the limits that the user named are INT8's."""
        default = Limits.default(precision)
        return default.changed(self.limits) if precision is Precision.INT8 else default

    def open_embedder(self) -> Embedder:
        """The embedder whose vectors the generator takes (dlib's where it takes none)."""
        return open_embedder(self.preset, self.embedder, self.converter)


def compute_engine_key(settings: BuildSettings, digests: Mapping[str, str], precision: Precision) -> str:
    """Digest of all that decides what the engine of ``precision`` is; equal key, equal engine."""
    return build_key(
        {
            "tool": __version__,
            "judged": "against what was handed in, in the batch that is built",
            "name": settings.source.name,
            "preset": repr(settings.preset),
            "batch": str(settings.batch),
            "precision": precision.value,
            "gate": repr(settings.choose_gate(precision)),
            "planner": _list_planning_parts(settings, precision),
            "rule": settings.rule,
            "corrections": settings.corrections,
            "repairs": settings.repairs,
            "limits": [settings.max_calib, settings.max_eval],
            "options": [repr(settings.options), settings.workspace_bytes],
            # With --recalibrate TensorRT 10 takes its own table.
            "own_table": settings.recalibrate and calibrates_itself(digests.get("backend", "")),
            **({} if settings.noise is None else {"noise": str(parse_noise(settings.noise))}),
            **_list_effort_parts(settings, precision),
            **_list_added_parts(settings),
            **{name: digest for name, digest in digests.items() if name != FACTORS or _searches(settings, precision)},
        }
    )


def _searches(settings: BuildSettings, precision: Precision) -> bool:
    return precision is Precision.INT8 and settings.plan is None and settings.planner == PLANNERS[0]


def _list_added_parts(settings: BuildSettings) -> dict[str, object]:
    """Settings that are spelled nowhere else, where they have not their default."""
    added = {name: getattr(settings, name) for name in _list_added()}
    defaults = read_defaults(BuildSettings)
    changed = {
        name: repr(setting) for name, setting in added.items() if name not in defaults or setting != defaults[name]
    }
    return {"added": changed} if changed else {}


@cache
def _list_added() -> tuple[str, ...]:
    return tuple(name for name, role in read_key_roles(BuildSettings).items() if role is KeyRole.ADDED)


def _list_planning_parts(settings: BuildSettings, precision: Precision) -> list[object]:
    """What decides where a plan of ``precision`` comes from."""
    if precision is not Precision.INT8:
        return []
    return [settings.planner, settings.search_faces, "max_ssim_drop" in settings.limits]


def _list_effort_parts(settings: BuildSettings, precision: Precision) -> dict[str, object]:
    """What was said of effort and time, where that may decide what an engine is."""
    level = {} if settings.effort == AUTO else {"effort": settings.effort}
    time = {} if settings.minutes == MINUTES or level else {"minutes": settings.minutes}
    return {**level, **time} if precision is Precision.INT8 else {}
