"""The faces that a report shows: those that the cheapest precision got most wrong, and some others for fairness."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision

ORDINARY_FACES = 4
"""Shown beside the worst ones, evenly spread over the rest."""

Pictures = NDArray[np.uint8]


@dataclass
class Gallery:
    """Pictures of a few verification faces under each precision of a build.

    ``pictures`` holds [N,S,S,3] uint8 for ``target``, ``source``, ``reference`` (FP32) and each precision;
    ``ssim_drop`` has N figures for each precision; ``faces`` are file names, the worst first.
    """

    faces: tuple[str, ...] = ()
    pictures: dict[str, Pictures] = field(default_factory=dict)
    ssim_drop: dict[str, tuple[float, ...]] = field(default_factory=dict)
    worst: int = 0
    _indices: tuple[int, ...] = ()

    def add(
        self,
        precision: Precision,
        accuracy: Accuracy,
        faces: FaceSet,
        sources: NDArray[np.int64],
        reference: NDArray[np.float32],
        pictures: NDArray[np.float32],
    ) -> None:
        """Keep what ``precision`` made of the chosen faces: all pictures are [N,S,S,3], nominally in [0,1].

        The first precision that comes chooses the faces, also when it is verified again after a repair.
        """
        if not self.ssim_drop or set(self.ssim_drop) == {precision.value}:
            self._choose(accuracy, faces, sources, reference)
        indices = list(self._indices)
        shown = np.nan_to_num(pictures[indices]).clip(0, 1)
        self.pictures[precision.value] = _convert_to_bytes(shown)
        drops = 1 - measure_ssim(reference[indices].clip(0, 1), shown)
        self.ssim_drop[precision.value] = tuple(float(drop) for drop in drops)

    def _choose(
        self, accuracy: Accuracy, faces: FaceSet, sources: NDArray[np.int64], reference: NDArray[np.float32]
    ) -> None:
        worst = list(accuracy.worst_faces)
        rest = [index for index in range(len(faces)) if index not in worst]
        indices = [*worst, *(rest[index] for index in spread(len(rest), ORDINARY_FACES))]
        self._indices, self.worst = tuple(indices), len(worst)
        self.faces = tuple(faces.files[index] for index in indices)
        self.pictures = {
            "target": faces.crops[indices],
            "source": faces.crops[sources[indices]],
            "reference": _convert_to_bytes(reference[indices].clip(0, 1)),
        }
        self.ssim_drop = {}


def _convert_to_bytes(pictures: NDArray[np.float32]) -> Pictures:
    return np.asarray((pictures * 255).round(), np.uint8)
