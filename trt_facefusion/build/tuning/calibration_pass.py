"""The calibration pass of a build: from the cache, or over the calibration faces, going on where it broke off."""

from __future__ import annotations

import os
from typing import Any

import onnxruntime

from trt_facefusion.build.effort import FULL
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.job import CONVERTER, VALUES_OF
from trt_facefusion.build.tuning.calibration_files import locate_partial, locate_table
from trt_facefusion.build.tuning.histograms import collect_histograms, pin_image_ranges
from trt_facefusion.quantization.calibration.cache import Calibration, StaleCalibration, load
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.calibration.resume import CalibrationCheckpoint
from trt_facefusion.quantization.correction.kinds import CHANNEL_CORRECTIONS, parse_corrections
from trt_facefusion.sampling import spread

LOOK_FACES = FULL.look_faces
"""Calibration faces that are looked at for the ranges of channels, and of what INT8 does not read."""

PassSettings = dict[str, str | int | float | bool | None]
"""What a cache says that its pass depended on, beside the model and the faces."""


def load_or_collect(inputs: BuildInputs) -> Calibration:
    """The calibration in the cache if it is this very one, otherwise that of a pass over the calibration faces.

    Raises:
        BadInputError, ModelError: the network cannot be run on the faces.
    """
    settings = _list_settings(inputs)
    if not inputs.settings.recalibrate:
        path = locate_table(inputs)
        digests = {"model_digest": inputs.view.digest, "faces_digest": inputs.faces.calibration.digest}
        cached = load(path, **digests, settings=settings)
        if isinstance(cached, Calibration):
            inputs.reporter.note(f"calibration: taken from {path}")
            return cached
        _explain(inputs, cached)
    return _collect(inputs, settings)


def _list_settings(inputs: BuildInputs) -> PassSettings:
    settings: PassSettings = {
        "preset": repr(inputs.settings.preset),
        "pairs": "cross",
        "taken": "some values",
        "channels": _choose_channels(inputs),
        "unshifted": "counted",
    }
    look_faces = inputs.level.look_faces
    settings |= {} if look_faces == LOOK_FACES else {"looked": look_faces}
    fed = {name: digest for name, digest in inputs.job.digests.items() if name.startswith((VALUES_OF, CONVERTER))}
    return settings | fed


def _collect(inputs: BuildInputs, settings: PassSettings) -> Calibration:
    network, faces, batch = inputs.network, inputs.faces.calibration, inputs.network.smallest_batch
    few = faces.subset(spread(len(faces), inputs.level.look_faces))
    histograms, affines = collect_histograms(
        inputs.view,
        Batches(network.make_feeder(few), len(few), batch),
        Batches(network.make_feeder(faces), len(faces), batch),
        _choose_channels(inputs),
        progress=inputs.reporter.progress,
        checkpoint=lambda *parts: _open_checkpoint(inputs, [faces.digest, settings, batch, *parts]),
    )
    return Calibration(
        inputs.settings.source.name,
        inputs.view.digest,
        faces.digest,
        histograms,
        "max",
        pin_image_ranges(inputs.settings.preset, inputs.view),
        settings,
        {name: tuple(affine.exponents.tolist()) for name, affine in affines.items()},
        {name: tuple(affine.offsets.tolist()) for name, affine in affines.items() if affine.shifts},
    )


def _choose_channels(inputs: BuildInputs) -> str:
    """What channels go through before they are quantised: ``shift``, ``equalise`` or ``none``."""
    named = parse_corrections(inputs.settings.corrections)
    return next((kind for kind in reversed(CHANNEL_CORRECTIONS) if named is None or kind in named), "none")


def _open_checkpoint(inputs: BuildInputs, parts: list[Any]) -> CalibrationCheckpoint:
    """The state of this very pass: the same numbers come only from the same library on as many cores."""
    runs = f"{onnxruntime.__version__} on {os.cpu_count()}"
    depends_on = {"model": inputs.view.digest, "parts": parts, "runs": runs}
    checkpoint = CalibrationCheckpoint(locate_partial(locate_table(inputs)), depends_on)
    done, _ = checkpoint.load()
    if done:
        faces = done * inputs.network.smallest_batch
        inputs.reporter.note(f"calibration: continuing a pass that was interrupted, {faces} faces are done")
    return checkpoint


def _explain(inputs: BuildInputs, stale: StaleCalibration) -> None:
    if "not been calibrated yet" not in stale.reason:
        inputs.reporter.note(f"calibrating anew: {stale.reason}")
