"""The generator of a build: as it was handed in and as it was prepared, how faces are fed to it, how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.backends.base import ShapeRange
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference import feeder as feeding
from trt_facefusion.inference.described import DescribedModel
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.original import Original, require_finite_pictures
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.graph import GraphView, PreparedModel
from trt_facefusion.model.presets import Preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.types import BatchRange, Progress, silent

_BATCH_BYTES = 128 << 20
"""What the largest activation of a batch may take: of networks for 512 px and more, single faces fill the cores."""


@dataclass(frozen=True)
class Network:
    """A generator with all that feeds it.

    ``one_at_a_time`` says that its batch axis is dynamic in name only; ``batches`` are those that are built.
    """

    original: Original
    described: DescribedModel
    embedder: Embedder
    projection: NDArray[np.float32] | None
    batches: BatchRange
    one_at_a_time: bool = False

    @property
    def prepared(self) -> PreparedModel:
        """The model in the one form that all packages work on."""
        return self.described.prepared

    @property
    def preset(self) -> Preset:
        """How the model is fed, with the picture's name, layout and range as the file has them."""
        return self.described.preset

    @property
    def contract(self) -> Contract:
        """How the model is fed, for whoever runs its engines."""
        return Contract(self.preset, self.projection)

    @cached_property
    def view(self) -> GraphView:
        """The prepared graph, indexed."""
        return GraphView(self.prepared.model)

    @property
    def batch(self) -> int:
        """Samples per inference where nothing is judged."""
        if self.one_at_a_time:
            return 1
        if not self.prepared.dynamic_batch:
            return self.prepared.fixed_batch
        names = (name for node in self.view.float_nodes() for name in node.output)
        largest = 4 * max((self.view.per_sample(name) for name in names), default=0)
        return max(min(feeding.BATCH, _BATCH_BYTES // max(largest, 1)), 1)

    @property
    def smallest_batch(self) -> int:
        """Samples per inference where every activation is kept, since that is what memory goes to."""
        return 1 if self.prepared.dynamic_batch else self.prepared.fixed_batch

    @property
    def judged_batch(self) -> int:
        """Samples per inference where engines are judged: those that the engine is built for (its usual batch)."""
        return self.batches.opt if self.prepared.dynamic_batch else self.prepared.fixed_batch

    def list_shapes(self) -> dict[str, ShapeRange]:
        """Smallest, usual and largest shape of every input, as an engine is built for them."""
        shapes: dict[str, ShapeRange] = {}
        for spec in self.prepared.inputs:
            smallest, usual, largest = (
                tuple(size if isinstance(size, int) else samples for size in spec.shape)
                for samples in (self.batches.min, self.batches.opt, self.batches.max)
            )
            shapes[spec.name] = (smallest, usual, largest)
        return shapes

    def make_feeder(self, faces: FaceSet) -> Feeder:
        """Network inputs for ``faces``."""
        fixed_batch = None if self.prepared.dynamic_batch else self.prepared.fixed_batch
        return Feeder(self.preset, faces, self.embedder, self.projection, fixed_batch, self.prepared.inputs)

    def make_renderer(self, faces: FaceSet) -> PictureRenderer:
        """Runs models on ``faces``."""
        return PictureRenderer(self.make_feeder(faces), str(self.preset.output.name), self.batch)

    def make_judge_renderer(self, faces: FaceSet) -> PictureRenderer:
        """Runs what is judged on ``faces``: always whole batches of the size that is built, filled up with repeats."""
        renderer, size = self.make_renderer(faces), self.judged_batch
        return replace(renderer, feeder=replace(renderer.feeder, fixed_batch=size), batch=size)

    def paint_reference(
        self, faces: FaceSet, stage: str, indices: Sequence[int] | None = None, progress: Progress = silent
    ) -> NDArray[np.float32]:
        """The prepared FP32 graph's pictures of ``faces``: the yardstick of the search, and of corrections.

        Raises:
            ModelError: they hold NaN or infinity.
        """
        with OnnxRuntimeRunner(self.prepared.model, ours="the prepared graph") as runner:
            return require_finite_pictures(self.make_renderer(faces)(runner, indices, progress, stage))
