"""The same face must give the same picture: again, and among others. Otherwise no verdict is possible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.network import Network
from trt_facefusion.build.reporter import Reporter
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.errors import ModelError
from trt_facefusion.evaluation.accuracy.agreement import RoundingLimits, measure_agreement
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference.graph_difference import find_first_mixing
from trt_facefusion.inference.original import require_finite_pictures
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.segments import list_activations, set_input_shapes
from trt_facefusion.types import Feeds

_SAMPLES = 3

Pictures = NDArray[np.float32]


def require_samples_alone_decide(
    network: Network, faces: FaceSet, settings: BuildSettings, reporter: Reporter, limits: RoundingLimits
) -> Network:
    """The same face must give the same picture: again, and among others.

    Gives the network; of one whose batch axis is dynamic in name only, one that takes one face at a time.

    Raises:
        ModelError: it does not; names the first node whose result depends on the others.
    """
    feeder = network.make_feeder(faces)
    numbers = list(range(min(_SAMPLES, len(faces))))
    with network.original.open_runner() as runner:
        alone = feeder(numbers[:1])
        picture = require_finite_pictures(_paint_first(network, faces, runner, alone))
        again = measure_agreement(picture, _paint_first(network, faces, runner, alone))
        if not again.within(limits):
            raise ModelError(
                f"the same face gives another picture each time ({again}), so no verdict is possible",
                "the network draws random numbers or keeps a state: export it in evaluation mode (net.eval())",
            )
        among = feeder(numbers)
        if feeder.fixed_batch == 1 or len(numbers) < 2:
            return network
        try:
            among_others = _paint_first(network, faces, runner, among)
        except ModelError as error:
            return _run_one_at_a_time(network, settings, reporter, error)
    difference = measure_agreement(picture, among_others)
    if not difference.within(limits):
        node = find_first_mixing(network.original, alone, among, _list_activation_shapes(network, among))
        raise ModelError(
            f"{node or 'a node'} mixes the faces of a batch: a face's picture depends on those that run beside it "
            f"({difference})",
            "export the network in evaluation mode (net.eval()), so that only the sample decides; or with a batch "
            "that is fixed at 1, if it will only ever run one face at a time",
        )
    return network


def _paint_first(network: Network, faces: FaceSet, runner: Infers, feeds: Feeds) -> Pictures:
    renderer = network.make_renderer(faces)
    pictures: Pictures = renderer.feeder.preset.output.decode(runner.infer(feeds)[renderer.output])
    return pictures[:1]


def _run_one_at_a_time(network: Network, settings: BuildSettings, reporter: Reporter, error: ModelError) -> Network:
    """A batch axis that has a name only: all right where the engine is to take one face at a time."""
    if settings.batch.max > 1 or network.prepared.fixed_batch > 1:
        raise ModelError(
            f"the network fails on more than one face at a time, though its batch axis has no fixed size: "
            f"{error.message}",
            "use --batch 1, or export it with a batch axis that is really dynamic",
        ) from error
    reporter.note("the network takes one face at a time only: everything is run so")
    return replace(network, one_at_a_time=True)


def _list_activation_shapes(network: Network, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    shapes = {name: array.shape for name, array in feeds.items()}
    return list_activations(GraphView(set_input_shapes(network.prepared.model, shapes)))
