"""The proof begins at the file: what is checked of a network before anything is calibrated or built."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.face_sets import FaceSets
from trt_facefusion.build.looks import check_looks
from trt_facefusion.build.network import Network
from trt_facefusion.build.reporter import Reporter
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import ModelError, PreparationError, TrtFaceFusionError
from trt_facefusion.evaluation.accuracy.agreement import (
    SAME_NETWORK,
    SAME_NETWORK_IN_HALF,
    Agreement,
    RoundingLimits,
    measure_agreement,
    measured,
    pooled,
)
from trt_facefusion.evaluation.accuracy.plausible import Look
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference.graph_difference import find_first_difference, find_first_mixing
from trt_facefusion.inference.original import computes_in_half, require_finite_pictures
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.segments import list_activations, set_input_shapes
from trt_facefusion.types import Feeds

_SAMPLES = 3
_FEW = 8
_CHUNK = 8
"""Faces whose pictures are held at a time, where the reference's are kept."""
_CHECKED_FACES = 4

Pictures = NDArray[np.float32]


@dataclass(frozen=True)
class Proof:
    """What was proven of a network before anything is calibrated or built.

    ``agreement`` holds the prepared graph's pictures against those of what was handed in, within ``limits``; ``look``
    is what the pictures look like; ``reference`` [N,H,W,3] float32 are the verification faces' pictures as what was
    handed in makes them, None where nothing is judged.
    """

    agreement: Agreement
    limits: RoundingLimits
    look: Look
    reference: Pictures | None


def prove_network(
    network: Network, faces: FaceSets, settings: BuildSettings, reporter: Reporter, *, judged: bool = True
) -> tuple[Network, Proof]:
    """Hold the prepared graph against what was handed in, on the faces that engines are judged on.

    Gives the network as well: it says whether it takes more than one face at a time. Where nothing is ``judged``, some
    calibration faces have to do.

    Raises:
        ModelError: its pictures do not depend on the sample alone, or the exported graph is not the torch network.
        PreparationError: preparing it changed the picture.
        BadInputError: with ``strict``, the pictures are not what the description of the inputs would give.
    """
    limits = limits_of(network)
    network = require_samples_alone_decide(network, faces.calibration, settings, reporter, limits)
    if settings.noise is None:
        _check_export(network, faces.calibration, settings)
    judged = judged and len(faces.verification) > 0
    held = faces.verification if judged else faces.calibration.subset(range(min(_FEW, len(faces.calibration))))
    stage = "reference pictures" if judged else "reference"
    with network.original.open_runner() as runner:
        pictures = require_finite_pictures(network.judge_renderer(held)(runner, None, reporter.progress, stage))
    agreement = hold_prepared(network, held, pictures, limits, reporter)
    look = check_looks(network, faces.calibration, settings, reporter)
    return network, Proof(agreement, limits, look, pictures if judged else None)


def limits_of(network: Network) -> RoundingLimits:
    """By how much preparing may change the picture: by rounding, which is more where the file computes in FP16."""
    return SAME_NETWORK_IN_HALF if computes_in_half(network.original.loaded) else SAME_NETWORK


def require_samples_alone_decide(
    network: Network, faces: FaceSet, settings: BuildSettings, reporter: Reporter, limits: RoundingLimits
) -> Network:
    """The same face must give the same picture: again, and among others.

    Gives the network; of one whose batch axis is dynamic in name only, one that takes one face at a time.

    Raises:
        ModelError: it does not; names the first node whose result depends on the others.
    """
    feeder = network.feeder(faces)
    numbers = list(range(min(_SAMPLES, len(faces))))
    with network.original.open_runner() as runner:
        alone = feeder(numbers[:1])
        picture = require_finite_pictures(_first_picture(network, faces, runner, alone))
        again = measure_agreement(picture, _first_picture(network, faces, runner, alone))
        if not again.within(limits):
            raise ModelError(
                f"the same face gives another picture each time ({again}), so no verdict is possible",
                "the network draws random numbers or keeps a state: export it in evaluation mode (net.eval())",
            )
        among = feeder(numbers)
        if feeder.fixed_batch == 1 or len(numbers) < 2:
            return network
        try:
            among_others = _first_picture(network, faces, runner, among)
        except ModelError as error:
            return _run_one_at_a_time(network, settings, reporter, error)
    difference = measure_agreement(picture, among_others)
    if not difference.within(limits):
        node = find_first_mixing(network.original, alone, among, _activation_shapes(network, among))
        raise ModelError(
            f"{node or 'a node'} mixes the faces of a batch: a face's picture depends on those that run beside it "
            f"({difference})",
            "export the network in evaluation mode (net.eval()), so that only the sample decides; or with a batch "
            "that is fixed at 1, if it will only ever run one face at a time",
        )
    return network


def _first_picture(network: Network, faces: FaceSet, runner: Infers, feeds: Feeds) -> Pictures:
    renderer = network.renderer(faces)
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


def _activation_shapes(network: Network, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    shapes = {name: value.shape for name, value in feeds.items()}
    return list_activations(GraphView(set_input_shapes(network.prepared.model, shapes)))


def _check_export(network: Network, faces: FaceSet, settings: BuildSettings) -> None:
    """Hold the prepared graph against the torch network that it was exported from."""
    feeds = network.feeder(faces)(range(min(network.batch, _CHECKED_FACES, len(faces))))
    with OnnxRuntimeRunner(network.prepared.model, ours="the prepared graph") as runner:
        settings.source.check(runner.infer(feeds), feeds)


def hold_prepared(
    network: Network, faces: FaceSet, reference: Pictures, limits: RoundingLimits, reporter: Reporter
) -> Agreement:
    """The prepared FP32 graph's pictures of ``faces`` against ``reference``, those of what was handed in.

    Raises:
        PreparationError: they differ by more than rounding; names the node.
    """
    difference, worst = _compare(network, faces, reference, reporter)
    if not difference.within(limits):
        limits = limits.widened(_measure_rounding(network, faces, reference))
    if not difference.within(limits):
        raise _describe_change(network, difference, limits, faces, worst)
    reporter.note(f"the prepared network against {network.original.label}: {difference}")
    return difference


def _compare(network: Network, faces: FaceSet, reference: Pictures, reporter: Reporter) -> tuple[Agreement, int]:
    """The figures, and the face that differs most."""
    renderer = network.judge_renderer(faces)
    size = renderer.batch * max(_CHUNK // renderer.batch, 1)
    parts = []
    with OnnxRuntimeRunner(network.prepared.model, ours="the prepared graph") as runner:
        for start in range(0, len(faces), size):
            numbers = range(start, min(start + size, len(faces)))
            parts.append(measured(reference[start : numbers.stop], renderer(runner, numbers)))
            reporter.progress("prepared network", numbers.stop, len(faces))
    return pooled(parts), int(np.concatenate([largest for _, largest in parts]).argmax())


def _measure_rounding(network: Network, faces: FaceSet, reference: Pictures) -> Agreement:
    """What the file's own pictures differ by when onnxruntime computes it in another order."""
    few = range(min(_FEW, len(faces)))
    with network.original.open_runner(optimise=False) as runner:
        return measure_agreement(reference[: few.stop], network.judge_renderer(faces)(runner, few))


def _describe_change(
    network: Network, difference: Agreement, limits: RoundingLimits, faces: FaceSet, worst: int
) -> PreparationError:
    feeds = network.judge_renderer(faces).feeder([worst])
    try:
        place = find_first_difference(network.original, network.prepared.model, feeds)
    except TrtFaceFusionError:  # the graph is too large to be taken apart: the fault is told all the same
        place = None
    node = "no single node that both know differs" if place is None else str(place)
    return PreparationError(
        f"preparing the network changed the picture by {difference.ssim_drop:.4%} SSIM, and by {_levels(difference)} "
        f"of 255 levels at most ({limits.ssim_drop:.4%} and {_levels(limits)} are allowed): {node}",
        "this is a fault of trt-ff and not of your file: please report it with that file. A file that is exported "
        "at opset 20 or later needs no conversion",
    )


def _levels(figures: Agreement | RoundingLimits) -> str:
    return f"{255 * figures.max_difference:.3g}"
