"""How the described inputs fit the tensors that a network takes: batch axes, sizes, types; what to write if not."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets.inputs import EmbeddingInput, FileInput, ImageInput, InputSpec, ValueInput
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.types import Array, TensorSpec

Shape = tuple[int | str, ...]

_PLAUSIBLE_EMBEDDING = 64
_DEFAULT_SIDE = 256
_STEPS = 16
"""A picture of fewer whole numbers is a slip of the pen."""


@dataclass(frozen=True)
class Fit:
    """How an input is fed: ``shape`` is that of one sample, or where it is not ``batched`` of the whole tensor."""

    name: str
    batched: bool
    shape: tuple[int, ...]
    dtype: str = "float32"

    def samples(self, values: Array) -> Array:
        """Values [N,...] of N samples as the network takes them.

        Raises:
            BadInputError: the type cannot hold them, or several samples meet an input without a batch axis.
        """
        if not self.batched and len(values) != 1:
            raise BadInputError(
                f"the input {self.name!r} has no batch axis, so the model takes one face at a time, not {len(values)}",
                "use a batch of 1, or export the model with a batch axis at every input",
            )
        shaped = values.reshape(len(values), *self.shape) if self.batched else values[0]
        return cast(shaped, self.dtype, self.name)

    def fixed(self, values: Array, count: int) -> Array:
        """Fixed ``values`` for ``count`` samples, which get all the same."""
        if values.ndim == len(self.shape) + 1:  # with a batch axis of one
            values = values[0]
        sample = np.broadcast_to(cast(values, self.dtype, self.name), self.shape)
        return np.ascontiguousarray(np.repeat(sample[None], count, 0)) if self.batched else np.array(sample)


def cast(values: Array, dtype: str, name: str) -> Array:
    """``values`` in the type ``dtype``; floats that pixels are made of are rounded to integers.

    Raises:
        BadInputError: they do not fit.
    """
    kind = np.dtype(dtype)
    if values.dtype == kind:
        return values
    if kind.kind in "iu" and values.dtype.kind == "f":
        values = np.rint(values)
    low, high = (
        (np.iinfo(kind).min, np.iinfo(kind).max)
        if kind.kind in "iu"
        else (0, 1)
        if kind.kind == "b"
        else _find_float_range(kind)
    )
    if values.size and not (low <= values.min().item() and values.max().item() <= high):
        raise BadInputError(
            f"the input {name!r} takes {dtype}, which cannot hold values from {values.min():g} to {values.max():g}",
            "correct the values, or the range MIN:MAX, in its --input",
        )
    return np.asarray(values.astype(kind))


def _find_float_range(kind: np.dtype) -> tuple[float, float]:
    return float(np.finfo(kind).min), float(np.finfo(kind).max)


def fit_inputs(preset: Preset, takes: Sequence[TensorSpec], embedding: int | None) -> dict[str, Fit]:
    """How each described input is fed; ``embedding`` is the length of the embedder's vectors (None: any).

    Raises:
        BadInputError: an input is not described, or is not what its description says.
    """
    described = {spec.name: spec for spec in preset.inputs}
    missing = [spec.name for spec in takes if spec.name not in described]
    unknown = [name for name in described if name not in {spec.name for spec in takes}]
    wrong = [f"not described: {', '.join(missing)}"] if missing else []
    wrong += [f"not in the model: {', '.join(unknown)}"] if unknown else []
    fits: dict[str, Fit] = {}
    for spec in [] if wrong else takes:
        try:
            fits[spec.name] = fit_input(described[spec.name], spec, embedding)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise BadInputError(
            f"the inputs do not fit the model ({'; '.join(wrong)}). The model takes {'; '.join(map(str, takes))}",
            f"describe each input once, or name a --preset; for this model perhaps: {suggest_inputs(takes)}",
        )
    return fits


def fit_input(spec: InputSpec, takes: TensorSpec, embedding: int | None) -> Fit:
    """How one input is fed. Raises ValueError: the text says why it does not fit."""
    if isinstance(spec, FileInput | ValueInput):
        batched, fixed = _fit_fixed(spec, takes)
        try:
            cast(spec.values(), takes.dtype, spec.name)
        except BadInputError as error:
            raise ValueError(error.message) from error
        if takes.dtype != "bool" and np.dtype(takes.dtype).kind in "iu" and (spec.values() % 1 != 0).any():
            raise ValueError(f"{spec.name!r} takes {takes.dtype}, and its values are no whole numbers")
        return Fit(spec.name, batched, fixed, takes.dtype)
    shape: Shape
    if isinstance(spec, EmbeddingInput):
        sizes = [size for size in takes.shape[len(takes.shape) > 1 :] if isinstance(size, int)]
        size = embedding if embedding is not None else max(sizes, default="?")
        shape, what = _fit_embedding(size, takes.shape), f"an embedding of {size} values"
    else:
        shape, what = spec.shape, f"an image [{', '.join(map(str, spec.shape))}]"
    if np.dtype(takes.dtype).kind == "V":
        raise ValueError(f"{spec.name!r} takes {takes.dtype}, which cannot be fed: export it with float32 inputs")
    if np.dtype(takes.dtype).kind not in ("f" if isinstance(spec, EmbeddingInput) else "fiu"):
        raise ValueError(f"{spec.name!r} is described as {what}, but takes {takes.dtype}")
    if isinstance(spec, ImageInput) and np.dtype(takes.dtype).kind in "iu":
        _require_whole(spec, takes)
    batched = len(takes.shape) == len(shape) + 1
    if batched and _is_turned(spec, shape, takes.shape):
        raise ValueError(f"{spec.name!r} is [{', '.join(map(str, takes.shape))}]: its batch axis is not in front")
    if not _matches(shape, takes.shape[1:] if batched else takes.shape) or not all(isinstance(s, int) for s in shape):
        other = ": is it another --embedder's?" if isinstance(spec, EmbeddingInput) else ""
        raise ValueError(f"{spec.name!r} is described as {what}, but is [{', '.join(map(str, takes.shape))}]{other}")
    return Fit(spec.name, batched, tuple(int(size) for size in shape), takes.dtype)


def _require_whole(image: ImageInput, takes: TensorSpec) -> None:
    """Raise ValueError if a picture of ``image`` would be lost in the integers that the network takes."""
    low, high = image.limits
    limits = np.iinfo(takes.dtype)
    if not limits.min <= low < high <= limits.max or high - low < _STEPS:
        raise ValueError(f"{image.name!r} takes {takes.dtype}, but is described with {low:g} to {high:g}: say 0:255")


def _fit_embedding(size: int | str, want: Shape) -> Shape:
    """The shape of one embedding: ``size`` values, and axes of one wherever a network with a batch axis has them."""
    ones = [axis for axis, length in enumerate(want) if axis and length == 1]
    if len(want) < 3 or len(ones) != len(want) - 2:
        return (size,)
    return tuple(1 if axis in ones else size for axis in range(1, len(want)))


def _is_turned(spec: ImageInput | EmbeddingInput, shape: Shape, want: Shape) -> bool:
    """Whether the channels, or the values, are in front, where the batch axis should be."""
    channels = -3 if isinstance(spec, ImageInput) and not spec.nhwc else -1
    return want[0] == shape[channels] != 1 and not isinstance(want[channels], int)


def _matches(have: Iterable[int | str], want: Shape) -> bool:
    sizes = tuple(have)
    return len(sizes) == len(want) and all(not isinstance(w, int) or h == w for h, w in zip(sizes, want, strict=True))


def _fit_fixed(spec: FileInput | ValueInput, takes: TensorSpec) -> tuple[bool, tuple[int, ...]]:
    """Whether fixed values are repeated along a batch axis that can be chosen, and the shape of what is repeated."""
    values, want = spec.values(), takes.shape
    free = bool(want) and not isinstance(want[0], int)
    if isinstance(spec, ValueInput):
        rest = want[1:] if free else want
        if all(isinstance(size, int) for size in rest):
            return free, tuple(int(size) for size in rest)
        raise ValueError(f"{spec.name!r} is one number, but is [{', '.join(map(str, want))}]: its sizes are not known")
    if free and _matches(values.shape, want[1:]):
        return True, values.shape
    if _matches(values.shape, want):
        return (True, values.shape[1:]) if free and values.shape[0] == 1 else (False, values.shape)
    if not free and want and _matches(values.shape, want[1:]):  # the batch axis is fixed
        return False, (int(want[0]), *values.shape)
    if values.size == 1 and all(size == 1 for size in want[free:]):
        return free, (1,) * len(want[free:])
    raise ValueError(
        f"{spec.name!r} has values [{', '.join(map(str, values.shape))}], but is [{', '.join(map(str, want))}]"
    )


def find_fixed_batch(preset: Preset, takes: Sequence[TensorSpec], fits: Mapping[str, Fit]) -> int | None:
    """The number of samples that the network insists on, or None where it takes any.

    An image or embedding without a batch axis makes it 1.

    Raises:
        BadInputError: two inputs insist on different numbers.
    """
    fixed: dict[str, int] = {}
    for spec in takes:
        described = next(i for i in preset.inputs if i.name == spec.name)
        if isinstance(described, ImageInput | EmbeddingInput):
            first = spec.shape[0] if fits[spec.name].batched else 1
            if isinstance(first, int) and first > 0:
                fixed[spec.name] = first
    if len(set(fixed.values())) > 1:
        raise BadInputError(
            f"the inputs have different numbers of samples: {', '.join(f'{n}: {b}' for n, b in fixed.items())}",
            "export the model with one batch size for all inputs",
        )
    return next(iter(fixed.values()), None)


def suggest_inputs(takes: Sequence[TensorSpec]) -> str:
    """A plausible ``--input`` for each input, guessed from shapes and types; ranges are for the user to correct."""
    return " ".join(f"--input {shlex.quote(f'{spec.name}={_suggest_input(spec)}')}" for spec in takes)


def _suggest_input(spec: TensorSpec) -> str:
    shape = spec.shape
    span = "0:255" if np.dtype(spec.dtype).kind in "iu" else "0:1"
    for axis, layout in ((-3, ""), (-1, ":nhwc")):
        if len(shape) in {3, 4} and shape[axis] in {1, 3, 6}:
            height, width = (s for i, s in zip((-3, -2, -1), shape[-3:], strict=True) if i != axis)
            order = {1: ":gray", 3: "", 6: ":stack=target/lower+target"}[int(shape[axis])]
            sides = [s if isinstance(s, int) else _DEFAULT_SIDE for s in (height, width)]
            size = str(sides[0]) if sides[0] == sides[1] else "x".join(map(str, sides))
            return f"image:{size}:{span}{order}{layout}"
    floats = np.dtype(spec.dtype).kind == "f"
    if floats and len(shape) in {1, 2} and (not isinstance(shape[-1], int) or shape[-1] >= _PLAUSIBLE_EMBEDDING):
        return "embedding"
    if all(size == 1 or not isinstance(size, int) for size in shape):
        return "value:0.5" if floats else "value:1"
    return "file:VALUES.npy"
