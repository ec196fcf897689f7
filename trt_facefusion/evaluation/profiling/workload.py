"""What an engine is fed with while it is measured: faces through its contract, or samples of the right range."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trt_facefusion.errors import BadInputError, FacesError
from trt_facefusion.evaluation.profiling.inputs import draw_samples
from trt_facefusion.evaluation.profiling.measure import CyclingInputs
from trt_facefusion.faces.find import list_photos
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.sampling import spread
from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.types import Feeds, Note, TensorSpec, drop_note

TURNS = 4
"""Different inputs that take turns."""
PHOTOS = 24
"""Photos that are read at most: speed hardly depends on what they show."""


@dataclass(frozen=True)
class PhotoSettings:
    """A folder of photos, or None for samples; how to read it."""

    faces: Path | None = None
    aligned: bool = False
    embedder: Path | None = None
    converter: Path | None = None


@dataclass(frozen=True)
class Workload:
    """Makes inputs of any batch size; ``text`` says what they are."""

    text: str
    feeds: Callable[[int], list[Feeds]]

    def cycle(self, batch: int) -> CyclingInputs:
        """Inputs of ``batch`` samples that take turns."""
        return CyclingInputs(self.feeds(batch), batch)


def make_workload(
    model: OpenedModel, specs: Sequence[TensorSpec], photos: PhotoSettings, note: Note = drop_note
) -> Workload:
    """What to feed ``model`` with.

    Raises:
        BadInputError: photos are named, and nothing says how this model takes them.
        FacesError: too few usable faces.
    """
    preset = model.contract.preset if model.contract is not None else None
    if photos.faces is None:
        what = "random values in the range of its preset" if preset is not None else "random values from 0 to 1"
        return Workload(what, lambda batch: draw_samples(specs, preset, batch, TURNS))
    feeder = replace(make_feeder(model, photos, PHOTOS, note), takes=tuple(specs))
    count = len(feeder.faces)

    def feeds(batch: int) -> list[Feeds]:
        turns = [np.resize(np.roll(np.arange(count), -turn * batch), batch) for turn in range(TURNS)]
        return [feeder(list(turn)) for turn in turns]

    return Workload(f"{count} faces of {photos.faces}", feeds)


def make_feeder(model: OpenedModel, photos: PhotoSettings, count: int, note: Note = drop_note) -> Feeder:
    """Feeds ``model`` with the faces of at most ``count`` photos, evenly spread over the folder.

    Raises:
        BadInputError: nothing says how this model takes faces.
        FacesError: fewer than two usable faces.
    """
    assert photos.faces is not None
    if model.contract is None:
        raise BadInputError(
            f"nothing says how {model.label} takes faces", "name an engine that trt-ff built, or leave --faces out"
        )
    preset = model.contract.preset
    embedder = open_embedder(preset, photos.embedder, photos.converter)
    files = list_photos(photos.faces)
    with scratch_folder() as folder:
        for number, index in enumerate(spread(len(files), count)):
            _link(files[index], folder / f"{number:05}{files[index].suffix}")
        faces = read_faces(
            Path(folder),
            template=preset.crops[0][0],
            size=preset.crops[0][1],
            embedder=embedder,
            aligned=photos.aligned,
        )
    if len(faces) < 2:
        raise FacesError(f"{photos.faces}: {len(faces)} usable faces", "name a folder with two or more clear faces")
    if faces.skipped:
        note(f"skipped {len(faces.skipped)} photos without a usable face")
    return Feeder(preset, faces, embedder, model.contract.projection)


def _link(photo: Path, link: Path) -> None:
    """Let ``link`` stand for ``photo``; where the file system has no links, it is a copy."""
    try:
        link.symlink_to(photo.absolute())
    except (OSError, NotImplementedError):
        shutil.copyfile(photo, link)
