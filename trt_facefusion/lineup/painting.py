"""Pictures of a few faces by every engine, for people to look at: nothing is judged by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.evaluation.profiling.workload import PhotoSettings, make_feeder
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.inference.renderer import PictureRenderer, find_picture_output
from trt_facefusion.lineup.entry import Entry, LineupGallery, Pictures
from trt_facefusion.lineup.measuring import runs_for_real
from trt_facefusion.model.presets.fit import find_fixed_batch, fit_inputs
from trt_facefusion.types import Note, Progress


def paint_gallery(
    entries: Sequence[Entry], photos: PhotoSettings, count: int, progress: Progress, note: Note
) -> LineupGallery:
    """What each engine makes of at most ``count`` faces; one that cannot run here is stood in for, and says so."""
    feeder: Feeder | None = None
    pictures: dict[str, Pictures] = {}
    for entry in entries:
        if entry.folder is None:
            continue
        model = open_model(entry.folder)
        if model.contract is None:
            continue
        feeder = feeder or make_feeder(model, photos, count, note)
        if not pictures:
            pictures["target"] = feeder.faces.crops[:]
            if feeder.preset.swaps:
                pictures["source"] = feeder.faces.crops[:][feeder.sources]
        try:
            title, painted = _paint(model, entry, feeder, progress)
        except TrtFaceFusionError as error:
            note(f"no pictures by {entry.backend} {entry.precision}: {error.message}")
            continue
        pictures[title] = painted
    return LineupGallery(pictures)


def _paint(model: OpenedModel, entry: Entry, feeder: Feeder, progress: Progress) -> tuple[str, Pictures]:
    real = entry.timing is not None or runs_for_real(model)
    with model.open_runner(stand_in=not real) as runner:
        pictures = _make_renderer(runner, feeder)(runner, None, progress, "pictures")
    title = f"{entry.backend}, {entry.built}" + ("" if real else ", its typed ONNX stands in")
    return title, np.asarray((np.nan_to_num(pictures).clip(0, 1) * 255).round(), np.uint8)


def _make_renderer(runner: Runner, feeder: Feeder) -> PictureRenderer:
    preset, takes = feeder.preset, runner.inputs
    fixed = find_fixed_batch(preset, takes, fit_inputs(preset, takes, feeder.embedder.dim))
    own = replace(feeder, takes=tuple(takes), fixed_batch=fixed)
    return PictureRenderer(own, find_picture_output(preset, runner.outputs), fixed or 1)
