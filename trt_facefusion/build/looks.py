"""Before anything is calibrated: are the network's own FP32 pictures what the description of its inputs promises?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.network import Network
from trt_facefusion.build.reporter import Reporter
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.evaluation.accuracy.identity import measure_identity_cosine
from trt_facefusion.evaluation.accuracy.plausible import Look, look
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.presets import ImageInput, Preset
from trt_facefusion.model.presets.syntax import write_input

LOOKS_WRONG = "the network's own pictures look wrong"
"""How the warning begins: a strict build takes no stored engine that bears it."""
_FACES = 4
_ALIKE = 0.03
"""Resemblance by which descriptions are not told apart: a swapper looks right in either order of the channels."""
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


def check_looks(network: Network, faces: FaceSet, settings: BuildSettings, reporter: Reporter) -> Look:
    """Tell, with the figures, where the pictures are no faces, or far better under another range or channel order.

    The other description is only named, never taken: a network may change colours by design.

    Raises:
        BadInputError: so it is, and the build is strict.
    """
    indices = range(min(_FACES, len(faces)))
    crops = faces.crops[list(indices)]
    renderer = network.make_renderer(faces)
    preset = renderer.feeder.preset
    with network.original.open_runner() as runner:
        pictures = renderer(runner, indices)
        described = _add_identity(look(pictures, crops), network, faces, pictures)
        if not described.suspicious:
            return described
        tried = [(other, _try_description(renderer, runner, other, crops)) for other in _list_alternatives(preset)]
    alternatives = [(preset, other) for preset, other in tried if other is not None]
    best = max((other for _, other in alternatives), key=lambda other: other.resemblance, default=described)
    words = list(described.wrong)
    remedy = "the range and the channel order are said with --input or --preset: look at the pictures in the report."
    if best.far_better_than(described):
        alike = [p.image for p, other in alternatives if other.resemblance >= best.resemblance - _ALIKE]
        words.append(
            f"they resemble their targets by {described.resemblance:.2f}, and would by {best.resemblance:.2f} if the "
            f"images were described as {' or '.join(map(_name_description, alike))}"
        )
        remedy = f"did you mean {' or '.join(f'--input {write_input(image)}' for image in alike)} ?"
    source, target = described.like_source, described.like_target
    if words and source is not None and target is not None:
        words.append(f"their identity is the source's by {source:.2f} and the target's by {target:.2f}")
    if words:
        message = f"{LOOKS_WRONG}: {'; '.join(words)}"
        if settings.strict:
            raise BadInputError(message, f"{remedy} Otherwise leave --strict out")
        reporter.warn(f"{message}; {remedy}")
    return described


def _add_identity(figures: Look, network: Network, faces: FaceSet, pictures: NDArray[np.float32]) -> Look:
    """The look with whose identity the pictures show, for a swapper; nothing that a limit is set to."""
    preset, embedder = network.preset, network.embedder
    template, _ = preset.crops[0]
    if not preset.swaps or pictures.shape[1] != pictures.shape[2] or not np.isfinite(pictures).all():
        return figures
    numbers = np.arange(len(pictures))
    people = (faces.crops[network.make_feeder(faces).sources[numbers]], faces.crops[numbers])
    source, target = (
        float(measure_identity_cosine(crops.astype(np.float32) / 255, pictures.clip(0, 1), template, embedder).mean())
        for crops in people
    )
    return replace(figures, like_source=source, like_target=target)


def _try_description(
    renderer: PictureRenderer, runner: Infers, preset: Preset, crops: NDArray[np.uint8]
) -> Look | None:
    other = replace(renderer, feeder=replace(renderer.feeder, preset=preset))
    try:
        return look(other(runner, range(len(crops))), crops)
    except (BadInputError, ModelError):  # a network may refuse values that it was never meant for
        return None


def _list_alternatives(preset: Preset) -> Iterator[Preset]:
    """The preset with all its images in each other range and channel order, the output alike."""
    image = preset.image
    for low, high in _RANGES:
        for bgr in (False, True):
            plain = ImageInput.with_range(image.name, image.size, low, high, bgr)
            if (plain.limits, plain.bgr) == (image.limits, image.bgr):
                continue
            inputs = tuple(
                replace(i, mean=plain.mean, std=plain.std, bgr=bgr) if isinstance(i, ImageInput) else i
                for i in preset.inputs
            )
            yield replace(preset, inputs=inputs, output=replace(preset.output, mean=plain.mean, std=plain.std, bgr=bgr))


def _name_description(image: ImageInput) -> str:
    low, high = image.limits
    return f"{low:g}:{high:g}:{'bgr' if image.bgr else 'rgb'}"
