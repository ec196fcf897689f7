"""The generator of a build: as it was handed in and as it was prepared, how faces are fed to it, how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.reporter import Reporter
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference import feeder as feeding
from trt_facefusion.inference.described import DescribedModel, prepare_described, require_batch
from trt_facefusion.inference.feeder import Feeder, find_projection, list_input_shapes
from trt_facefusion.inference.original import Original, fix_original_noise, require_finite_pictures
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.graph import GraphView, PreparedModel, read_input_specs
from trt_facefusion.model.graph.batch import require_samples_apart
from trt_facefusion.model.graph.noise import parse_noise, require_no_noise
from trt_facefusion.model.presets import Preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.model.presets.fit import find_fixed_batch, fit_inputs
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

    def feeder(self, faces: FaceSet) -> Feeder:
        """Network inputs for ``faces``."""
        fixed_batch = None if self.prepared.dynamic_batch else self.prepared.fixed_batch
        return Feeder(self.preset, faces, self.embedder, self.projection, fixed_batch, self.prepared.inputs)

    def renderer(self, faces: FaceSet) -> PictureRenderer:
        """Runs models on ``faces``."""
        return PictureRenderer(self.feeder(faces), str(self.preset.output.name), self.batch)

    def judge_renderer(self, faces: FaceSet) -> PictureRenderer:
        """Runs what is judged on ``faces``: always whole batches of the size that is built, filled up with repeats."""
        renderer, size = self.renderer(faces), self.judged_batch
        return replace(renderer, feeder=replace(renderer.feeder, fixed_batch=size), batch=size)

    def paint_reference(
        self, faces: FaceSet, stage: str, indices: Sequence[int] | None = None, progress: Progress = silent
    ) -> NDArray[np.float32]:
        """The prepared FP32 graph's pictures of ``faces``: the yardstick of the search, and of corrections.

        Raises:
            ModelError: they hold NaN or infinity.
        """
        with OnnxRuntimeRunner(self.prepared.model, ours="the prepared graph") as runner:
            return require_finite_pictures(self.renderer(faces)(runner, indices, progress, stage))


def read_network(settings: BuildSettings, embedder: Embedder, reporter: Reporter) -> Network:
    """Load the model that was handed in, fix its noise where that was asked for, and prepare it as it is described.

    Raises:
        BadInputError: an input is not what its description says, or the model cannot be built for this batch.
        ModelError: its pictures are random, or one sample's depends on the others of its batch; names the node.
    """
    reporter.progress("model", 0, 0)
    model = settings.source.load(list_input_shapes(settings.preset, embedder.dim))
    for note in settings.source.notes:
        reporter.note(note)
    takes = read_input_specs(model)
    fits = fit_inputs(settings.preset, takes, embedder.dim)
    shapes = {name: fit.shape for name, fit in fits.items()}
    projection = find_projection(settings.preset, model)
    original = Original(settings.source, model)
    if settings.noise is not None:
        noise = parse_noise(settings.noise)
        original = fix_original_noise(settings.source, model, noise, shapes)
        reporter.warn(f"noise is fixed (--noise {noise}) in {', '.join(original.fixed_nodes)}, in the engine, too")
    require_no_noise(original.loaded)
    require_samples_apart(original.loaded, shapes, single=find_fixed_batch(settings.preset, takes, fits) == 1)
    described = prepare_described(original.loaded, settings.preset, embedder.dim)
    require_batch(described, settings.batch)
    if described.dropped:
        picture = described.preset.output.name
        reporter.note(f"the picture is {picture}; left out of the engine: {', '.join(described.dropped)}")
    # The prepared model has the weights now.
    return Network(original.without_weights(), described, embedder, projection, settings.batch)
