"""The proof begins at the file: what is checked of a network before anything is calibrated or built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.batch_independence import require_samples_alone_decide
from trt_facefusion.build.face_sets import FaceSets
from trt_facefusion.build.looks import check_looks
from trt_facefusion.build.network import Network
from trt_facefusion.build.reporter import Reporter
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import PreparationError, TrtFaceFusionError
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
from trt_facefusion.inference.graph_difference import find_first_difference
from trt_facefusion.inference.original import computes_in_half, require_finite_pictures

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
    limits = choose_limits(network)
    network = require_samples_alone_decide(network, faces.calibration, settings, reporter, limits)
    if settings.noise is None:
        _check_export(network, faces.calibration, settings)
    judged = judged and len(faces.verification) > 0
    held = faces.verification if judged else faces.calibration.subset(range(min(_FEW, len(faces.calibration))))
    stage = "reference pictures" if judged else "reference"
    with network.original.open_runner() as runner:
        pictures = require_finite_pictures(network.make_judge_renderer(held)(runner, None, reporter.progress, stage))
    agreement = hold_prepared(network, held, pictures, limits, reporter)
    look = check_looks(network, faces.calibration, settings, reporter)
    return network, Proof(agreement, limits, look, pictures if judged else None)


def choose_limits(network: Network) -> RoundingLimits:
    """By how much preparing may change the picture: by rounding, which is more where the file computes in FP16."""
    return SAME_NETWORK_IN_HALF if computes_in_half(network.original.loaded) else SAME_NETWORK


def _check_export(network: Network, faces: FaceSet, settings: BuildSettings) -> None:
    """Hold the prepared graph against the torch network that it was exported from."""
    feeds = network.make_feeder(faces)(range(min(network.batch, _CHECKED_FACES, len(faces))))
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
    renderer = network.make_judge_renderer(faces)
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
        return measure_agreement(reference[: few.stop], network.make_judge_renderer(faces)(runner, few))


def _describe_change(
    network: Network, difference: Agreement, limits: RoundingLimits, faces: FaceSet, worst: int
) -> PreparationError:
    feeds = network.make_judge_renderer(faces).feeder([worst])
    try:
        place = find_first_difference(network.original, network.prepared.model, feeds)
    except TrtFaceFusionError:  # the graph is too large to be taken apart: the fault is told all the same
        place = None
    node = "no single node that both know differs" if place is None else str(place)
    levels, allowed = _format_levels(difference), _format_levels(limits)
    return PreparationError(
        f"preparing the network changed the picture by {difference.ssim_drop:.4%} SSIM, and by {levels} "
        f"of 255 levels at most ({limits.ssim_drop:.4%} and {allowed} are allowed): {node}",
        "this is a fault of trt-ff and not of your file: please report it with that file. A file that is exported "
        "at opset 20 or later needs no conversion",
    )


def _format_levels(figures: Agreement | RoundingLimits) -> str:
    return f"{255 * figures.max_difference:.3g}"
