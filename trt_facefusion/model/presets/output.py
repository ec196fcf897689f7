"""Which output of a network is the picture, and how its tensor becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.presets.inputs import ImageInput
from trt_facefusion.model.presets.terse import Terse
from trt_facefusion.types import Array, TensorSpec

MIN_SIDE_PX = 11
"""The window of SSIM."""


@dataclass(frozen=True, repr=False)
class ImageOutput(Terse):
    """The output that is a picture: ``rgb01 = tensor * std + mean``.

    Without a name: the only picture among the outputs, of a known generator the first. ``ranged``: the user said the
    range; otherwise integers are pixels of 0..255. ``nhwc`` is found from the output's shape (`settle`). ``masks`` are
    outputs that say where the picture is to replace the target's, 1 where it does.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"nhwc", "ranged", "masks"})

    name: str | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False
    nhwc: bool = False
    ranged: bool = False
    masks: tuple[str, ...] = ()

    @classmethod
    def like(cls, image: ImageInput) -> ImageOutput:
        """The output that has the range and channel order of an input: what most generators do."""
        return cls(None, image.mean, image.std, image.bgr)

    def decode(self, tensor: Array) -> NDArray[np.float32]:
        """Tensor [N,3,H,W] (``nhwc``: [N,H,W,3]) -> pictures [N,H,W,3] float32, RGB, nominally in [0,1].

        A tensor without a batch axis is one picture. Nothing is clipped, NaN survives.
        """
        x = np.asarray(tensor, np.float32)
        x = x[None] if x.ndim == 3 else x
        x = x if self.nhwc else x.transpose(0, 2, 3, 1)
        if self.bgr:
            x = x[..., ::-1]
        return np.ascontiguousarray(x * np.array(self.std, np.float32) + np.array(self.mean, np.float32))

    def decode_mask(self, outputs: Mapping[str, Array]) -> NDArray[np.float32] | None:
        """The smaller of the network's ``masks`` at every pixel, [N,H,W] float32 in 0..1; None where it has none.

        Values outside of 0..1 are clipped; NaN survives.
        """
        masks = [_flatten_mask(outputs[name]) for name in self.masks]
        return np.minimum.reduce(masks).clip(0, 1) if masks else None

    def settle(self, spec: TensorSpec, outputs: Sequence[TensorSpec] = ()) -> ImageOutput:
        """This output as the network ``spec`` gives it: its name, layout, and the range of its integers; with those
        masks that are among ``outputs``."""
        masks = tuple(name for name in self.masks if name in {other.name for other in outputs})
        picture = replace(self, name=spec.name, nhwc=_has_channels_last(spec, 3), masks=masks)
        if np.dtype(spec.dtype).kind in "iu" and not self.ranged:
            picture = replace(picture, mean=(0.0,) * 3, std=(1 / 255,) * 3)
        return picture


def choose_picture_output(
    output: ImageOutput, outputs: Sequence[TensorSpec], *, first_is_right: bool = False
) -> ImageOutput:
    """``output`` settled on one of ``outputs``; ``first_is_right``: take the first picture where nothing else decides.

    Raises:
        ModelError: there is no picture.
        BadInputError: the named output is none, or nothing says which of several is meant.
    """
    pictures = {spec.name: spec for spec in outputs if _is_picture(spec)}
    listed = "; ".join(map(str, outputs))
    if output.name in pictures:
        return output.settle(pictures[output.name], outputs)
    if output.name is not None and not first_is_right:
        what = "is no picture" if output.name in {spec.name for spec in outputs} else "is not an output of the model"
        raise BadInputError(
            f"{output.name!r} {what}. The model gives {listed}",
            _choose(pictures) if pictures else f"name an output of 3 channels and {MIN_SIDE_PX} px or more",
        )
    if not pictures:
        raise ModelError(
            f"no output of the model is a picture [N,3,H,W] or [N,H,W,3] of {MIN_SIDE_PX} px or more: {listed}",
            "this tool verifies generators by the pictures they make; export the network with its picture as an output",
        )
    if len(pictures) > 1 and not first_is_right:
        raise BadInputError(
            f"{len(pictures)} outputs may be the picture: {'; '.join(map(str, pictures.values()))}", _choose(pictures)
        )
    return output.settle(next(iter(pictures.values())), outputs)


def _flatten_mask(tensor: Array) -> NDArray[np.float32]:
    """A mask [N,1,H,W], [N,H,W,1], [N,H,W] or [H,W] as [N,H,W]; integers are pixels of 0..255."""
    mask = np.asarray(tensor, np.float32) / np.float32(255 if tensor.dtype == np.uint8 else 1)
    if mask.ndim == 4:
        mask = mask[:, 0] if mask.shape[1] == 1 else mask[..., 0]
    return np.asarray(mask[None] if mask.ndim == 2 else mask, np.float32)


def _choose(pictures: dict[str, TensorSpec]) -> str:
    return "say which one: " + " or ".join(f"--picture {name}" for name in pictures)


def list_picture_outputs(picture: ImageOutput, outputs: Sequence[TensorSpec]) -> list[str]:
    """The picture and its masks (one channel of floats or pixels, of the picture's size), in the network's order.

    Where the description names masks, those only.
    """
    spec = next(spec for spec in outputs if spec.name == picture.name)
    size = _find_sides(spec, 3)
    masks = {other.name for other in outputs if _is_mask(other) and _find_sides(other, 1) == size}
    masks = masks.intersection(picture.masks) if picture.masks else masks
    return [other.name for other in outputs if other.name in {spec.name, *masks}]


def _is_mask(spec: TensorSpec) -> bool:
    return spec.dtype in {"uint8", "bool"} or np.dtype(spec.dtype).kind == "f"


def _has_channels_last(spec: TensorSpec, channels: int) -> bool:
    return len(spec.shape) >= 3 and spec.shape[-1] == channels and spec.shape[-3] != channels


def _find_sides(spec: TensorSpec, channels: int) -> tuple[int | str, ...] | None:
    """Height and width of a tensor of images with or without a batch axis, or None."""
    if len(spec.shape) not in {3, 4}:
        return None
    if _has_channels_last(spec, channels):
        return spec.shape[-3:-1]
    return spec.shape[-2:] if spec.shape[-3] == channels or (channels == 1 and len(spec.shape) == 3) else None


def _is_picture(spec: TensorSpec) -> bool:
    sides = _find_sides(spec, 3)
    numbers = np.dtype(spec.dtype).kind in "fiu"
    return numbers and sides is not None and all(side >= MIN_SIDE_PX for side in sides if isinstance(side, int))
