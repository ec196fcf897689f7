"""Histograms of a network's tensors: which are counted, on how many faces, and with what done to their channels."""

from __future__ import annotations

from collections.abc import Callable

from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.presets import Preset
from trt_facefusion.quantization.calibration.channels import sample_ranges
from trt_facefusion.quantization.calibration.collect import collect
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.calibration.resume import CalibrationCheckpoint
from trt_facefusion.quantization.correction.channel_affine import Affines
from trt_facefusion.quantization.lowering.equalise import (
    find_channel_affines,
    find_equalisable,
    find_scaled_reads,
    make_scaled_tensors,
)
from trt_facefusion.quantization.precision import quantisable
from trt_facefusion.types import Progress, silent

# Nodes that only move values: their output has the histogram of their input.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def find_watched_tensors(view: GraphView) -> tuple[list[str], dict[str, str]]:
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


def find_int8_inputs(view: GraphView) -> set[str]:
    """The activations that a plan may quantise: their histograms decide about scales, the others' only about FP16."""
    return {node.input[0] for node in view.float_nodes() if quantisable(view, node.name)}


def pin_image_ranges(preset: Preset, view: GraphView) -> dict[str, float]:
    """amax of image inputs of floats: known from the preset, so that no face decides it."""
    images = [image for image in preset.images if view.is_float(image.name)]
    return {image.name: max(abs(limit) for limit in image.limits) for image in images}


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
    watched, aliases = find_watched_tensors(view)
    equalisable = list(find_equalisable(view)) if channels != "none" else []
    read = {aliases.get(name, name) for name in find_int8_inputs(view)} | set(view.output_names)
    sampled, ranges = sample_ranges(
        view.model, [name for name in watched if name not in read], equalisable, few, progress=progress
    )
    peaks = {name: histogram.amax for name, histogram in sampled.items()}
    affines = find_channel_affines(view, ranges, shift=channels == "shift", peaks=peaks)
    affines |= find_scaled_reads(view, affines)
    scaled = make_scaled_tensors(affines)
    tensors = [*(name for name in watched if name in read), *(name for name in scaled if name not in watched)]
    behind = [
        [name, t.name, t.factors.tolist(), t.offsets.tolist()] for name, several in scaled.items() for t in several
    ]
    state = None if checkpoint is None else checkpoint(tensors, behind)
    counted = collect(view.model, tensors, every, scaled=scaled, threads=threads, progress=progress, checkpoint=state)
    histograms = sampled | counted
    return {name: histograms[name] for name in dict.fromkeys([*watched, *histograms])}, affines
