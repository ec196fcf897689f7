"""Network outputs -> pictures: the one place where calibration, verification and serving agree on the other end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.model.presets import ImageOutput, Preset
from trt_facefusion.model.presets.output import choose_picture_output
from trt_facefusion.types import Progress, TensorSpec, silent


def find_picture(preset: Preset, outputs: Sequence[TensorSpec]) -> ImageOutput:
    """How the picture is read that ``preset`` describes, settled on one of ``outputs``.

    Raises:
        ModelError: no output is a picture.
        BadInputError: the named one is none, or nothing says which of several is meant.
    """
    return choose_picture_output(preset.output, outputs, first_is_right=preset.known)


def find_picture_output(preset: Preset, outputs: Sequence[TensorSpec]) -> str:
    """The name of the output that is a picture.

    Raises: as `find_picture`.
    """
    return str(find_picture(preset, outputs).name)


@dataclass(frozen=True)
class PictureRenderer:
    """Runs a model on a feeder's faces, ``batch`` samples at a time, and decodes the pictures."""

    feeder: Feeder
    output: str
    batch: int

    def __call__(
        self, runner: Infers, indices: Sequence[int] | None = None, progress: Progress = silent, stage: str = "verify"
    ) -> NDArray[np.float32]:
        """Pictures [N,H,W,3] float32, RGB, nominally in [0,1], of the faces ``indices`` (default: all)."""
        targets = list(range(len(self.feeder.faces))) if indices is None else list(indices)
        pictures = []
        for start in range(0, len(targets), self.batch):
            batch = targets[start : start + self.batch]
            tensor = runner.infer(self.feeder(batch))[self.output]
            pictures.append(self.feeder.preset.output.decode(tensor)[: len(batch)])
            progress(stage, start + len(batch), len(targets))
        return np.concatenate(pictures)
