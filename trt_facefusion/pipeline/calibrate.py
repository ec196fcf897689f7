"""The calibration step: histograms from the cache or from one pass, and the rule that suits the picture best."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from trt_facefusion.accuracy.metrics import ssim
from trt_facefusion.calibration.cache import Calibration, Stale, beside, cache_path, load, load_named, save
from trt_facefusion.calibration.channels import channel_ranges
from trt_facefusion.calibration.collect import collect
from trt_facefusion.calibration.compare import fit
from trt_facefusion.calibration.histogram import Histogram
from trt_facefusion.calibration.reader import Batches
from trt_facefusion.calibration.table import CalibrationTable
from trt_facefusion.errors import CalibrationCacheError, StoreError
from trt_facefusion.export import model_digest
from trt_facefusion.graph import GraphView
from trt_facefusion.lowering import lower
from trt_facefusion.lowering.affine import Affine, Affines, equalised_name
from trt_facefusion.lowering.equalise import affines, candidates, with_affines
from trt_facefusion.pipeline.context import VALUES_OF, Context
from trt_facefusion.precision import plan_by_rules
from trt_facefusion.presets import Preset
from trt_facefusion.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.types import Precision

AUTO_RULES = ("entropy", "mse", "percentile:99.99", "percentile:99.999", "max")
_SHOWN = 5
VALIDATION_FACES = 16
"""Calibration faces on which `auto` compares the rules: the verification faces must not choose anything."""

EQUALISING_FACES = 64
"""Calibration faces that the channels' magnitudes are taken from."""

# Nodes that only move values: their output has the histogram of their input.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def tensors_to_watch(view: GraphView) -> tuple[list[str], dict[str, str]]:
    """Tensors to histogram, and those that share another's histogram (name -> that other)."""
    watched = [name for name in view.input_names if view.is_float(name)]
    aliases: dict[str, str] = {}
    for node in view.float_nodes():
        for name in node.output:
            if not name or not view.is_float(name):
                continue
            source = node.input[0] if node.op_type in _MOVES else None
            if source is not None and (source in aliases or source in watched):
                aliases[name] = aliases.get(source, source)
            else:
                watched.append(name)
    return watched, aliases


def pinned_ranges(preset: Preset) -> dict[str, float]:
    """amax of image inputs: known from the preset, so that no face decides it."""
    return {preset.image.name: max(abs(limit) for limit in preset.image.limits)}


def require_writable(folder: Path) -> None:
    """Raise `StoreError` if a calibration cache cannot be written to ``folder``: better now than after the pass."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "is not writable" if nearest.is_dir() else "is a file"
        raise StoreError(
            f"cannot write the calibration cache to {folder}: {nearest} {what}", "name another folder with --cache DIR"
        )


def require_int8(view: GraphView, amax: Mapping[str, float], path: Path) -> None:
    """Raise `CalibrationCacheError` if a table leaves no node to INT8: the engine would be one in name only."""
    wanted = plan_by_rules(view, {}, "").names(Precision.INT8)
    if wanted and not plan_by_rules(view, amax, "").names(Precision.INT8):
        raise CalibrationCacheError(
            f"{path} has no range for the tensor {view.nodes[wanted[0]].input[0]!r}, nor for any other that INT8 reads",
            "is it this model's cache? Calibrate the model by leaving --calib-cache out",
        )


@dataclass(frozen=True)
class Choice:
    """A rule, whether channels are equalised, and the mean SSIM drop of everything that was tried."""

    rule: str
    equalised: bool
    tried: Mapping[str, float]


class Ranges:
    """The ranges of every float tensor of a model: from a named table, from the cache, or from one pass over faces.

    What FP16 needs (``amax``) costs the pass; ``table`` also the choice of a rule.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.aliases = tensors_to_watch(context.view)[1]

    @cached_property
    def _named(self) -> CalibrationTable | None:
        """The named table in this model's names; tensors without a range are told, and cost their readers INT8."""
        path = self.context.settings.table
        if path is None:
            return None
        table = load_named(path, model_digest=model_digest(self.context.prepared.model))
        found = fit(table, self.context.view)
        require_int8(self.context.view, found.amax, path)
        if found.missing:
            self.context.warn(
                f"{path} has no range for {len(found.missing)} tensors ({', '.join(found.missing[:_SHOWN])}"
                f"{' ...' if len(found.missing) > _SHOWN else ''}): what reads them does not run in INT8"
            )
        divided = {name: table[name] for name in map(equalised_name, self._named_affines) if name in table}
        return CalibrationTable({**found.amax, **divided}, table.header)

    @cached_property
    def _calibration(self) -> Calibration:
        calibration = _cached_or_collected(self.context)
        save(calibration, self.context.settings.cache)
        return calibration

    @cached_property
    def amax(self) -> Mapping[str, float]:
        """Largest magnitude seen in every tensor, whatever the rule: what FP16 overflow is judged by."""
        if self._named is not None:
            return self._named
        seen = {name: histogram.amax for name, histogram in self._calibration.histograms.items()}
        return seen | {name: seen[source] for name, source in self.aliases.items() if source in seen}

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """What calibration saw in every tensor; nothing where the user named a table."""
        return {} if self._named is not None else self._calibration.histograms

    @cached_property
    def _chosen(self) -> Choice:
        return _choose(self.context, self._calibration, self.aliases, self.amax)

    @cached_property
    def table(self) -> CalibrationTable:
        """What INT8 scales are made of."""
        if self._named is not None:
            return self._named
        calibration = self._calibration.with_rule(self._chosen.rule)
        if not self._chosen.equalised:
            calibration = _without_equalisation(calibration)
        save(calibration, self.context.settings.cache)
        return _with_aliases(calibration.table, self.aliases)

    @cached_property
    def _named_affines(self) -> Affines:
        path = self.context.settings.table
        described = beside(path) if path is not None else None
        return {} if described is None else affines_of(described)

    @property
    def affines(self) -> Affines:
        """Scale and shift of the channels, where they were found to help."""
        if self._named is not None:
            return self._named_affines
        return affines_of(self._calibration) if self._chosen.equalised else {}

    @property
    def table_sha256(self) -> str:
        """Digest of the table's text."""
        return hashlib.sha256(self.table.dumps().encode()).hexdigest()

    @property
    def record(self) -> dict[str, object]:
        """For the manifest: the rule, and each rule's mean SSIM drop where `auto` compared them."""
        if self._named is not None:
            source = f"from {self.context.settings.table}"
            return {"rule": source, "equalised": bool(self.affines), "ssim_drop": {}}
        return {"rule": self._chosen.rule, "equalised": self._chosen.equalised, "ssim_drop": self._chosen.tried}


def _cached_or_collected(context: Context) -> Calibration:
    s = context.settings
    digest = model_digest(context.prepared.model)
    faces = context.faces[0]
    settings: dict[str, str | int | float | bool | None] = {
        "preset": repr(s.preset),
        "pairs": "cross",
        "channels": "shifted",
    }
    settings |= {name: digest for name, digest in context.digests.items() if name.startswith(VALUES_OF)}
    path = cache_path(s.cache, s.source.name, digest)
    if not s.recalibrate:
        found = load(path, model_digest=digest, faces_digest=faces.digest, settings=settings)
        if isinstance(found, Calibration):
            context.note(f"calibration: taken from {path}")
            return found
        _explain(context, found)
    watched, _ = tensors_to_watch(context.view)
    feeder, model = context.feeder(faces), context.prepared.model
    by_tensor: Affines = {}
    if wanted is None or "equalise" in wanted:
        by_tensor = _affines(context, shift=wanted is None or "shift" in wanted)
    histograms = collect(
        with_affines(model, by_tensor),
        [*watched, *map(equalised_name, by_tensor)],
        Batches(feeder, len(faces), context.batch),
        progress=context.progress,
    )
    return Calibration(
        s.source.name,
        digest,
        faces.digest,
        histograms,
        "max",
        pinned_ranges(s.preset),
        settings,
        {name: tuple(affine.exponents.tolist()) for name, affine in by_tensor.items()},
        {name: tuple(affine.offsets.tolist()) for name, affine in by_tensor.items() if affine.shifts},
    )


def _affines(context: Context, *, shift: bool) -> Affines:
    faces = context.faces[0]
    few = faces.subset(spread(len(faces), EQUALISING_FACES))
    batches = Batches(context.feeder(few), len(few), context.batch)
    tensors = list(candidates(context.view))
    seen = channel_ranges(context.prepared.model, tensors, batches, progress=context.progress)
    return affines(context.view, seen, shift=shift)


def affines_of(calibration: Calibration) -> Affines:
    """The scales and shifts that a calibration was made with."""
    return {
        name: Affine(
            np.array(values, np.int8),
            np.array(calibration.offsets.get(name, (0.0,) * len(values)), np.float32),
        )
        for name, values in calibration.exponents.items()
    }


def _without_equalisation(calibration: Calibration) -> Calibration:
    divided = set(map(equalised_name, calibration.exponents))
    kept = {name: histogram for name, histogram in calibration.histograms.items() if name not in divided}
    return replace(calibration, histograms=kept, exponents={}, offsets={})


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` of ``count`` indices, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist()))


def _explain(context: Context, stale: Stale) -> None:
    if "not been calibrated yet" not in stale.reason:
        context.note(f"calibrating anew: {stale.reason}")


def _with_aliases(table: CalibrationTable, aliases: Mapping[str, str]) -> CalibrationTable:
    return CalibrationTable({**table, **{name: table[source] for name, source in aliases.items()}}, table.header)


def _choose(
    context: Context, calibration: Calibration, aliases: Mapping[str, str], amax: Mapping[str, float]
) -> Choice:
    """The rule, and whether to equalise: what loses least in INT8 pictures of a slice of the calibration faces."""
    s = context.settings
    rules = AUTO_RULES if s.rule == "auto" else (s.rule,)
    faces = context.faces[0]
    chosen = spread(len(faces), VALIDATION_FACES)
    wanted = context.paint_reference(faces, "reference pictures", chosen).clip(0, 1)
    painter = context.painter(faces)
    plan = plan_by_rules(context.view, amax, calibration.model)
    tried: dict[str, float] = {}

    def measure(rule: str, equalised: bool) -> None:
        table = _with_aliases(calibration.with_rule(rule).table, aliases)
        chosen_affines = affines_of(calibration) if equalised else {}
        model = lower(context.view, plan, table, base=Precision.FP32, affines=chosen_affines)
        with OnnxRuntimeRunner(model) as runner:
            drop = float(1 - ssim(wanted, painter(runner, chosen).clip(0, 1)).mean())
        tried[_label(rule, equalised)] = drop
        context.progress("rules", len(tried), len(rules) + 1)

    for rule in rules:
        measure(rule, bool(calibration.exponents))
    best = min(rules, key=lambda rule: tried[_label(rule, bool(calibration.exponents))])
    if calibration.exponents and s.corrections == "auto":
        measure(best, False)
    label = min(tried, key=lambda name: tried[name])
    shown = ", ".join(f"{name} {drop:.2%}" for name, drop in sorted(tried.items(), key=lambda item: item[1]))
    context.note(f"calibration {label}: smallest SSIM drop on {len(chosen)} calibration faces ({shown})")
    return Choice(best, label == _label(best, True), tried)


def _label(rule: str, equalised: bool) -> str:
    return f"{rule}, equalised" if equalised else rule
