"""The calibration step: histograms from the cache or from one pass, and the rule that suits the picture best."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnxruntime

from trt_facefusion.build.effort import FULL
from trt_facefusion.build.inputs import VALUES_OF, Context
from trt_facefusion.build.tuning.thresholds import affines_of, choose, with_aliases
from trt_facefusion.errors import CalibrationCacheError, StoreError
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.presets import Preset
from trt_facefusion.quantization.calibration.cache import (
    Calibration,
    StaleCalibration,
    cache_path,
    load,
    load_description,
    load_named,
    save_as,
)
from trt_facefusion.quantization.calibration.channels import TAIL, ChannelRanges, measure_channel_ranges, sample_ranges
from trt_facefusion.quantization.calibration.collect import collect
from trt_facefusion.quantization.calibration.compare import assign_ranges
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.calibration.resume import CalibrationCheckpoint
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.calibration.threshold_choice import ThresholdChoice
from trt_facefusion.quantization.correction.channel_affine import Affines, equalised_name
from trt_facefusion.quantization.correction.kinds import CHANNEL_CORRECTIONS, parse_corrections
from trt_facefusion.quantization.lowering.equalise import find_channel_affines, find_equalisable, make_scaled_tensors
from trt_facefusion.quantization.precision import Seen, plan_by_rules, quantisable
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision, Progress, silent

_SHOWN = 5

GLANCE_FACES = FULL.look_faces
"""Calibration faces that are looked at for the ranges of channels, and of what INT8 does not read."""

# Nodes that only move values: their output has the histogram of their input.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def tensors_to_watch(view: GraphView) -> tuple[list[str], dict[str, str]]:
    """Tensors to histogram, and those that share another's histogram (name -> that other)."""
    watched = [name for name in view.input_names if view.is_float(name)]
    aliases: dict[str, str] = {}
    for node in view.float_nodes():
        for name in node.output:
            if not name or not view.is_float(name) or name in view.masked:
                continue
            source = node.input[0] if node.op_type in _MOVES else None
            if source is not None and (source in aliases or source in watched):
                aliases[name] = aliases.get(source, source)
            else:
                watched.append(name)
    return watched, aliases


def read_by_int8(view: GraphView) -> set[str]:
    """The activations that a plan may quantise: their histograms decide about scales, the others' only about FP16."""
    return {node.input[0] for node in view.float_nodes() if quantisable(view, node.name)}


def table_path(context: Context) -> Path:
    """Where the table of this model is written: the file that the user named, or one in the cache."""
    s = context.settings
    return s.table_file or cache_path(s.cache, s.source.name, context.view.digest)


def partial_path(table: Path) -> Path:
    """Where a pass that is under way keeps its state."""
    return table.with_name(table.name.removesuffix(".cache") + ".partial")


def pinned_ranges(preset: Preset, view: GraphView) -> dict[str, float]:
    """amax of image inputs of floats: known from the preset, so that no face decides it."""
    images = [image for image in preset.images if view.is_float(image.name)]
    return {image.name: max(abs(limit) for limit in image.limits) for image in images}


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
    if wanted and not (amax and plan_by_rules(view, amax, "").names(Precision.INT8)):  # no range: rules ask for none
        raise CalibrationCacheError(
            f"{path} has no range for the tensor {view.nodes[wanted[0]].input[0]!r}, nor for any other that INT8 reads",
            "is it this model's cache? Calibrate the model by leaving --calib-cache out",
        )


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
        table = load_named(path, model_digest=self.context.view.digest)
        found = assign_ranges(table, self.context.view)
        require_int8(self.context.view, found.amax, path)
        if table.zeros:
            self.context.note(
                f"{path}: {len(table.zeros)} tensors were always zero, and have no range "
                f"({', '.join(table.zeros[:_SHOWN])}{' ...' if len(table.zeros) > _SHOWN else ''})"
            )
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
        if self.context.settings.table_file is None:  # one that the user named holds what was asked for, or nothing
            self._save(calibration)
        return calibration

    @cached_property
    def path(self) -> Path:
        """Where the table is written."""
        return table_path(self.context)

    def _save(self, calibration: Calibration) -> None:
        save_as(calibration, self.path, "--cache" if self.context.settings.table_file is None else "--output")
        partial_path(self.path).unlink(missing_ok=True)

    @cached_property
    def amax(self) -> Mapping[str, float]:
        """Largest magnitude seen in every tensor, whatever the rule: what FP16 overflow is judged by."""
        if self._named is not None:
            return self._named
        seen = {name: histogram.amax for name, histogram in self._calibration.histograms.items()}
        return seen | {name: seen[source] for name, source in self.aliases.items() if source in seen}

    @cached_property
    def seen(self) -> Mapping[str, Seen]:
        """Means of every tensor: what FP16 sums and underflow are judged by. Nothing where the user named a table."""
        seen = {name: Seen.of(histogram) for name, histogram in self.histograms.items()}
        return seen | {name: seen[source] for name, source in self.aliases.items() if source in seen}

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """What calibration saw in every tensor; nothing where the user named a table."""
        return {} if self._named is not None else self._calibration.histograms

    @cached_property
    def _chosen(self) -> ThresholdChoice:
        return choose(self.context, self._calibration, self.aliases, self.amax, self.seen)

    @property
    def calibration(self) -> Calibration:
        """The histograms, and the choice of their thresholds. Not where the user named a table."""
        return self._calibration.with_choice(self._chosen)

    @cached_property
    def table(self) -> CalibrationTable:
        """What INT8 scales are made of."""
        if self._named is not None:
            return self._named
        calibration = self.calibration
        self._save(calibration)
        return with_aliases(calibration.table, self.aliases)

    @cached_property
    def _named_affines(self) -> Affines:
        path = self.context.settings.table
        described = load_description(path) if path is not None else None
        return {} if described is None else affines_of(described)

    @property
    def affines(self) -> Affines:
        """Scale and shift of the channels, where they were found to help."""
        if self._named is not None:
            return self._named_affines
        return affines_of(self._calibration) if self._chosen.equalised else {}

    @property
    def _shifted(self) -> int:
        """Tensors whose channels are shifted."""
        return sum(affine.shifts for affine in self.affines.values())

    @property
    def table_sha256(self) -> str:
        """Digest of the table's text."""
        return hashlib.sha256(self.table.dumps().encode()).hexdigest()

    @property
    def record(self) -> dict[str, object]:
        """For the manifest: the rule, and each rule's mean SSIM drop where `auto` compared them."""
        if self._named is not None:
            source = f"from {self.context.settings.table}"
            return {"rule": source, "equalised": bool(self.affines), "shifted": self._shifted, "ssim_drop": {}}
        chosen = self._chosen
        return {
            "rule": chosen.rule,
            "equalised": chosen.equalised,
            "shifted": self._shifted,
            "ssim_drop": dict(chosen.tried),
            "tensors": {name: tensor.reason for name, tensor in chosen.tensors.items()},
            "trials": chosen.trials,
        }


def _cached_or_collected(context: Context) -> Calibration:
    s = context.settings
    digest = context.view.digest
    faces = context.faces[0]
    settings: dict[str, str | int | float | bool | None] = {
        "preset": repr(s.preset),
        "pairs": "cross",
        "taken": "some values",
        "channels": _channels(context),
    }
    looked = context.level.look_faces
    settings |= {} if looked == GLANCE_FACES else {"looked": looked}
    settings |= {name: digest for name, digest in context.digests.items() if name.startswith(VALUES_OF)}
    path = table_path(context)
    if not s.recalibrate:
        found = load(path, model_digest=digest, faces_digest=faces.digest, settings=settings)
        if isinstance(found, Calibration):
            context.note(f"calibration: taken from {path}")
            return found
        _explain(context, found)
    batches = Batches(context.feeder(faces), len(faces), context.smallest_batch)
    few = faces.subset(spread(len(faces), looked))
    histograms, by_tensor = collect_histograms(
        context.view,
        Batches(context.feeder(few), len(few), context.smallest_batch),
        batches,
        _channels(context),
        progress=context.progress,
        checkpoint=lambda *parts: _checkpoint(context, [faces.digest, settings, batches.batch_size, *parts]),
    )
    return Calibration(
        s.source.name,
        digest,
        faces.digest,
        histograms,
        "max",
        pinned_ranges(s.preset, context.view),
        settings,
        {name: tuple(affine.exponents.tolist()) for name, affine in by_tensor.items()},
        {name: tuple(affine.offsets.tolist()) for name, affine in by_tensor.items() if affine.shifts},
    )


def collect_histograms(
    view: GraphView,
    few: Batches,
    every: Batches,
    channels: str = "shift",
    *,
    threads: int | None = None,
    progress: Progress = silent,
    checkpoint: Callable[..., CalibrationCheckpoint] | None = None,
) -> tuple[dict[str, Histogram], Affines]:
    """Histograms of every float tensor, in the order of the graph, and what channels go through.

    What INT8 may quantise, and the outputs, are counted on ``every`` sample. A look at ``few`` of them is enough for
    scales and shifts of channels (``channels``: ``shift``, ``equalise`` or ``none``), and for what FP16 needs to know.

    Args:
        view: the model.
        few: some of the samples; how many a batch costs memory, since every activation is kept.
        every: all samples.
        channels: what channels go through before they are quantised.
        threads: limits onnxruntime.
        progress: counts batches.
        checkpoint: makes the state of the pass over ``every``, from JSON values that it depends on.

    Raises:
        BadInputError, ModelError: as `collect`.
    """
    watched, aliases = tensors_to_watch(view)
    wanted = list(find_equalisable(view)) if channels != "none" else []
    read = {aliases.get(name, name) for name in read_by_int8(view)} | set(view.output_names)
    looked, ranges = sample_ranges(
        view.model, [name for name in watched if name not in read], wanted, few, progress=progress
    )
    found = find_channel_affines(view, ranges, shift=channels == "shift")
    scaled = make_scaled_tensors(found)
    tensors = [*(name for name in watched if name in read), *(name for name in found if name not in watched)]
    parts = [tensors, [[name, made.factors.tolist(), made.offsets.tolist()] for name, made in scaled.items()]]
    state = None if checkpoint is None else checkpoint(*parts)
    made = collect(view.model, tensors, every, scaled=scaled, threads=threads, progress=progress, checkpoint=state)
    histograms = looked | made
    return {name: histograms[name] for name in dict.fromkeys([*watched, *histograms])}, found


def _channels(context: Context) -> str:
    """What channels go through before they are quantised: ``shift``, ``equalise`` or ``none``."""
    wanted = parse_corrections(context.settings.corrections)
    return next((kind for kind in reversed(CHANNEL_CORRECTIONS) if wanted is None or kind in wanted), "none")


def seen_channels(context: Context, tensors: list[str], count: int, tail: float = TAIL) -> dict[str, ChannelRanges]:
    """The range of each channel of ``tensors`` on ``count`` calibration faces, but for ``tail`` at either end."""
    faces = context.faces[0]
    few = faces.subset(spread(len(faces), count))
    batches = Batches(context.feeder(few), len(few), context.smallest_batch)
    return measure_channel_ranges(context.prepared.model, tensors, batches, tail=tail, progress=context.progress)


def _checkpoint(context: Context, parts: list[Any]) -> CalibrationCheckpoint:
    """The state of this very pass: the same numbers come only from the same library on as many cores."""
    digest = context.view.digest
    known = {"model": digest, "parts": parts, "runs": f"{onnxruntime.__version__} on {os.cpu_count()}"}
    checkpoint = CalibrationCheckpoint(partial_path(table_path(context)), known)
    done, _ = checkpoint.load()
    if done:
        context.note(
            f"calibration: continuing a pass that was interrupted, {done * context.smallest_batch} faces are done"
        )
    return checkpoint


def _explain(context: Context, stale: StaleCalibration) -> None:
    if "not been calibrated yet" not in stale.reason:
        context.note(f"calibrating anew: {stale.reason}")
