"""The one way in which runners are judged by their pictures: chosen faces, and the reference's pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.evaluation.accuracy.judge import Accuracy, judge, measure
from trt_facefusion.evaluation.accuracy.metric import Metric, PerFace, Pictures
from trt_facefusion.evaluation.accuracy.metrics import Ssim
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.types import Progress, silent

ALL = slice(None)


class PictureEvaluator:
    """Holds pictures of chosen faces against the reference's.

    ``indices`` are the faces of ``renderer``'s set, ``reference`` their pictures [N,H,W,3] float32, nominally in [0,1].
    A part of the faces is named by a slice of ``indices``.
    """

    def __init__(
        self,
        renderer: PictureRenderer,
        indices: Sequence[int],
        reference: NDArray[np.float32],
        metrics: Sequence[Metric] = (Ssim(),),
    ) -> None:
        self.renderer, self.indices, self.reference, self.metrics = renderer, list(indices), reference, tuple(metrics)

    @cached_property
    def _target(self) -> Pictures:
        return self.reference.clip(0, 1)

    def paint(
        self, runner: Infers, faces: slice = ALL, progress: Progress = silent, stage: str = "verify"
    ) -> NDArray[np.float32]:
        """The pictures [N,H,W,3] that ``runner`` makes of the faces."""
        return self.renderer(runner, self.indices[faces], progress, stage)

    def per_face(self, pictures: NDArray[np.float32], faces: slice = ALL) -> dict[str, PerFace]:
        """The values [N] of each metric, by its name, of pictures of the faces."""
        return measure(self.metrics, self._target[faces], pictures)

    def ssim(self, runner: Infers, faces: slice = ALL, progress: Progress = silent, stage: str = "verify") -> PerFace:
        """SSIM [N] of what ``runner`` makes of the faces; 0 for a face with NaN or infinity."""
        return self.per_face(self.paint(runner, faces, progress, stage), faces)[Ssim.name]

    def ssim_drop(self, runner: Infers, progress: Progress = silent, stage: str = "verify") -> float:
        """Mean SSIM over all faces that ``runner`` loses."""
        return float(1 - self.ssim(runner, ALL, progress, stage).mean())

    def accuracy(self, pictures: NDArray[np.float32]) -> Accuracy:
        """Everything that is known of pictures of all faces, see `judge`."""
        return judge(self.reference, pictures, self.metrics)
