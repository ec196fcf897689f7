"""The calibration step: histograms from the cache or from one pass, and the rule that suits the picture best."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnxruntime

from trt_facefusion.build.effort import FULL
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.job import VALUES_OF
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.tuning.thresholds import affines_of, choose, with_aliases
from trt_facefusion.errors import CalibrationCacheError, StoreError
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.layout import MOVING_OPERATORS
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
from trt_facefusion.quantization.correction.channel_affine import Affines, name_equalised
from trt_facefusion.quantization.correction.kinds import CHANNEL_CORRECTIONS, parse_corrections
from trt_facefusion.quantization.lowering.equalise import find_channel_affines, find_equalisable, make_scaled_tensors
from trt_facefusion.quantization.precision import TensorMoments, plan_by_rules, quantisable
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision, Progress, silent

_SHOWN = 5

GLANCE_FACES = FULL.look_faces
"""Calibration faces that are looked at for the ranges of channels, and of what INT8 does not read."""


def tensors_to_watch(view: GraphView) -> tuple[list[str], dict[str, str]]:
    """Tensors to histogram, and those that share another's histogram (name -> that other)."""
    watched = [name for name in view.input_names if view.is_float(name)]
    aliases: dict[str, str] = {}
    for node in view.float_nodes():
        for name in node.output:
            if not name or not view.is_float(name) or name in view.masked:
                continue
            source = node.input[0] if node.op_type in MOVING_OPERATORS else None
            if source is not None and (source in aliases or source in watched):
                aliases[name] = aliases.get(source, source)
            else:
                watched.append(name)
    return watched, aliases


def read_by_int8(view: GraphView) -> set[str]:
    """The activations that a plan may quantise: their histograms decide about scales, the others' only about FP16."""
    return {node.input[0] for node in view.float_nodes() if quantisable(view, node.name)}


def table_path(inputs: BuildInputs) -> Path:
    """Where the table of this model is written: the file that the user named, or one in the cache."""
    s = inputs.settings
    return s.table_file or cache_path(s.cache, s.source.name, inputs.view.digest)


def partial_path(table: Path) -> Path:
    """Where a pass that is under way keeps its state."""
    return table.with_name(table.name.removesuffix(".cache") + ".partial")


def pinned_ranges(preset: Preset, view: GraphView) -> dict[str, float]:
    """amax of image inputs of floats: known from the preset, so that no face decides it."""
    images = [image for image in preset.images if view.is_float(image.name)]
    return {image.name: max(abs(limit) for limit in image.limits) for image in images}


def require_writable_cache(settings: BuildSettings) -> None:
    """Raise `StoreError` if a calibration cannot be written where it belongs: better now than after the pass."""
    if settings.table is not None:
        return
    folder = settings.cache if settings.table_file is None else settings.table_file.parent
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


@dataclass(frozen=True)
class Observations:
    """What calibration saw: what FP16 needs, and what thresholds are chosen from.

    ``calibration`` holds a histogram for every tensor; None where the user named a ``table``. ``aliases`` are tensors
    that hold the values of another (name -> that other).
    """

    aliases: Mapping[str, str]
    calibration: Calibration | None
    named: CalibrationTable | None = None
    named_affines: Affines = field(default_factory=dict)

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Tensor -> what calibration saw in it; nothing where the user named a table."""
        return {} if self.calibration is None else self.calibration.histograms

    @cached_property
    def amax(self) -> Mapping[str, float]:
        """Largest magnitude of every tensor, whatever the rule: what FP16 overflow is judged by."""
        if self.named is not None:
            return self.named
        amax = {name: histogram.amax for name, histogram in self.histograms.items()}
        return amax | {name: amax[source] for name, source in self.aliases.items() if source in amax}

    @cached_property
    def moments(self) -> Mapping[str, TensorMoments]:
        """Means of every tensor: what FP16 sums and underflow are judged by. Nothing where the user named a table."""
        moments = {name: TensorMoments.of(histogram) for name, histogram in self.histograms.items()}
        return moments | {name: moments[source] for name, source in self.aliases.items() if source in moments}


@dataclass(frozen=True)
class Ranges:
    """What INT8 scales are made of: a threshold for every tensor, scale and shift of the channels.

    ``record`` is for the manifest: the rule, and each rule's mean SSIM drop where `auto` compared them. ``calibration``
    knows the choice; None where the user named the table.
    """

    observations: Observations
    table: CalibrationTable
    affines: Affines
    record: Mapping[str, object]
    calibration: Calibration | None = None

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tensors that hold the values of another: name -> that other."""
        return self.observations.aliases

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Tensor -> what calibration saw in it; nothing where the user named a table."""
        return self.observations.histograms

    @property
    def table_sha256(self) -> str:
        """Digest of the table's text."""
        return hashlib.sha256(self.table.dumps().encode()).hexdigest()


def calibrate(inputs: BuildInputs) -> Observations:
    """Histograms of every tensor: from the cache, or from one pass over the calibration faces; or the named table.

    Raises:
        CalibrationCacheError: the named table leaves no node to INT8.
        StoreError: the calibration cannot be written.
    """
    aliases = tensors_to_watch(inputs.view)[1]
    path = inputs.settings.table
    if path is not None:
        description = load_description(path)
        affines = {} if description is None else affines_of(description)
        return Observations(aliases, None, _read_named(inputs, path, affines), affines)
    calibration = _cached_or_collected(inputs)
    if inputs.settings.table_file is None:  # one that the user named holds what was asked for, or nothing
        _save(inputs, calibration)
    return Observations(aliases, calibration)


def choose_ranges(inputs: BuildInputs, observations: Observations) -> Ranges:
    """The thresholds by whose pictures calibration faces lose least, and the table that is made of them.

    Raises:
        StoreError: the table cannot be written.
    """
    if observations.calibration is None:
        assert observations.named is not None
        affines = observations.named_affines
        record: dict[str, object] = {"rule": f"from {inputs.settings.table}", "equalised": bool(affines)}
        record |= {"shifted": _count_shifted(affines), "ssim_drop": {}}
        return Ranges(observations, observations.named, affines, record)
    amax, moments = observations.amax, observations.moments
    choice = choose(inputs, observations.calibration, observations.aliases, amax, moments)
    calibration = observations.calibration.with_choice(choice)
    _save(inputs, calibration)
    affines = affines_of(observations.calibration) if choice.equalised else {}
    record = {
        "rule": choice.rule,
        "equalised": choice.equalised,
        "shifted": _count_shifted(affines),
        "ssim_drop": dict(choice.tried),
        "tensors": {name: tensor.reason for name, tensor in choice.tensors.items()},
        "trials": choice.trials,
    }
    return Ranges(observations, with_aliases(calibration.table, observations.aliases), affines, record, calibration)


def _count_shifted(affines: Affines) -> int:
    """Tensors whose channels are shifted."""
    return sum(affine.shifts for affine in affines.values())


def _read_named(inputs: BuildInputs, path: Path, affines: Affines) -> CalibrationTable:
    """The named table in this model's names; tensors without a range are told, and cost their readers INT8."""
    table = load_named(path, model_digest=inputs.view.digest)
    found = assign_ranges(table, inputs.view)
    require_int8(inputs.view, found.amax, path)
    if table.zeros:
        inputs.reporter.note(
            f"{path}: {len(table.zeros)} tensors were always zero, and have no range "
            f"({', '.join(table.zeros[:_SHOWN])}{' ...' if len(table.zeros) > _SHOWN else ''})"
        )
    if found.missing:
        inputs.reporter.warn(
            f"{path} has no range for {len(found.missing)} tensors ({', '.join(found.missing[:_SHOWN])}"
            f"{' ...' if len(found.missing) > _SHOWN else ''}): what reads them does not run in INT8"
        )
    divided = {name: table[name] for name in map(name_equalised, affines) if name in table}
    return CalibrationTable({**found.amax, **divided}, table.header)


def _save(inputs: BuildInputs, calibration: Calibration) -> None:
    path = table_path(inputs)
    save_as(calibration, path, "--cache" if inputs.settings.table_file is None else "--output")
    partial_path(path).unlink(missing_ok=True)


def _cached_or_collected(inputs: BuildInputs) -> Calibration:
    s = inputs.settings
    digest = inputs.view.digest
    faces = inputs.faces.calibration
    settings: dict[str, str | int | float | bool | None] = {
        "preset": repr(s.preset),
        "pairs": "cross",
        "taken": "some values",
        "channels": _channels(inputs),
    }
    looked = inputs.level.look_faces
    settings |= {} if looked == GLANCE_FACES else {"looked": looked}
    settings |= {name: digest for name, digest in inputs.job.digests.items() if name.startswith(VALUES_OF)}
    path = table_path(inputs)
    if not s.recalibrate:
        found = load(path, model_digest=digest, faces_digest=faces.digest, settings=settings)
        if isinstance(found, Calibration):
            inputs.reporter.note(f"calibration: taken from {path}")
            return found
        _explain(inputs, found)
    batches = Batches(inputs.network.feeder(faces), len(faces), inputs.network.smallest_batch)
    few = faces.subset(spread(len(faces), looked))
    histograms, by_tensor = collect_histograms(
        inputs.view,
        Batches(inputs.network.feeder(few), len(few), inputs.network.smallest_batch),
        batches,
        _channels(inputs),
        progress=inputs.reporter.progress,
        checkpoint=lambda *parts: _checkpoint(inputs, [faces.digest, settings, batches.batch_size, *parts]),
    )
    return Calibration(
        s.source.name,
        digest,
        faces.digest,
        histograms,
        "max",
        pinned_ranges(s.preset, inputs.view),
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


def _channels(inputs: BuildInputs) -> str:
    """What channels go through before they are quantised: ``shift``, ``equalise`` or ``none``."""
    wanted = parse_corrections(inputs.settings.corrections)
    return next((kind for kind in reversed(CHANNEL_CORRECTIONS) if wanted is None or kind in wanted), "none")


def seen_channels(inputs: BuildInputs, tensors: list[str], count: int, tail: float = TAIL) -> dict[str, ChannelRanges]:
    """The range of each channel of ``tensors`` on ``count`` calibration faces, but for ``tail`` at either end."""
    faces = inputs.faces.calibration
    few = faces.subset(spread(len(faces), count))
    batches = Batches(inputs.network.feeder(few), len(few), inputs.network.smallest_batch)
    return measure_channel_ranges(
        inputs.network.prepared.model, tensors, batches, tail=tail, progress=inputs.reporter.progress
    )


def _checkpoint(inputs: BuildInputs, parts: list[Any]) -> CalibrationCheckpoint:
    """The state of this very pass: the same numbers come only from the same library on as many cores."""
    digest = inputs.view.digest
    known = {"model": digest, "parts": parts, "runs": f"{onnxruntime.__version__} on {os.cpu_count()}"}
    checkpoint = CalibrationCheckpoint(partial_path(table_path(inputs)), known)
    done, _ = checkpoint.load()
    if done:
        faces = done * inputs.network.smallest_batch
        inputs.reporter.note(f"calibration: continuing a pass that was interrupted, {faces} faces are done")
    return checkpoint


def _explain(inputs: BuildInputs, stale: StaleCalibration) -> None:
    if "not been calibrated yet" not in stale.reason:
        inputs.reporter.note(f"calibrating anew: {stale.reason}")
