"""Before anything is calibrated: are the network's own FP32 pictures what the description of its inputs promises?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.accuracy.plausible import Look, look
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.pipeline.feeds import Painter
from trt_facefusion.presets import ImageInput, Preset
from trt_facefusion.runtime.base import Infers

if TYPE_CHECKING:
    from trt_facefusion.pipeline.context import Context

_FACES = 4
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


def check_looks(context: Context) -> Look:
    """Tell, with the figures, where the pictures are no faces, or far better under another range or channel order.

    The other description is only named, never taken: a network may change colours by design.

    Raises:
        BadInputError: so it is, and the build is strict.
    """
    faces = context.faces[0]
    chosen = range(min(_FACES, len(faces)))
    crops = faces.crops[list(chosen)]
    preset = context.settings.preset
    painter = context.painter(faces)
    with context.original.opened() as runner:
        found = look(painter(runner, chosen), crops)
        if not found.suspicious:
            return found
        others = [(other, _look(painter, runner, other, crops)) for other in _others(preset)]
    best, better = max(((p, seen) for p, seen in others if seen is not None), key=lambda o: o[1].resemblance)
    words = list(found.wrong)
    remedy = (
        "look at the reference pictures in the report; the range and channel order are said with --input or --preset"
    )
    if better.far_better_than(found):
        words.append(
            f"they resemble their targets by {found.resemblance:.2f}, and would by {better.resemblance:.2f} if the "
            f"images were described as {_called(best.image)}"
        )
        remedy = f"did you mean {_option(best.image)} ? Otherwise leave --strict out"
    if words:
        message = f"the network's own pictures look wrong: {'; '.join(words)}"
        if context.settings.strict:
            raise BadInputError(message, remedy)
        context.warn(f"{message}; {remedy.replace(' Otherwise leave --strict out', '')}")
    return found


def _look(painter: Painter, runner: Infers, preset: Preset, crops: NDArray[np.uint8]) -> Look | None:
    other = replace(painter, feeder=replace(painter.feeder, preset=preset))
    try:
        return look(other(runner, range(len(crops))), crops)
    except ModelError:  # a network may refuse values that it was never meant for
        return None


def _others(preset: Preset) -> Iterator[Preset]:
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


def _called(image: ImageInput) -> str:
    low, high = image.limits
    return f"{low:g}:{high:g}:{'bgr' if image.bgr else 'rgb'}"


def _option(image: ImageInput) -> str:
    low, high = image.limits
    return f"--input {image.name}=image:{image.size}:{low:g}:{high:g}{':bgr' if image.bgr else ''}"
