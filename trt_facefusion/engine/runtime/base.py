"""The protocol of a runner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np

from trt_facefusion.errors import BadInputError
from trt_facefusion.types import Array, Feeds, TensorSpec


class Infers(Protocol):
    """What takes feeds and gives outputs, one after the other."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` gives."""

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name. Raises BadInputError when ``feeds`` are not what the model takes; nothing is converted."""


class Runner(Infers, Protocol):
    """Runs one engine; a context manager that frees what it holds."""

    def infer_async(self, feeds: Feeds) -> Future[dict[str, Array]]:
        """Start an inference; ``feeds`` are copied before this returns, and futures complete in their order.

        Waits while as many are in flight as the runner takes. A callback of a future must not wait for another one.
        """

    def map(self, batches: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """Outputs in the order of ``batches``, of which only as many are read ahead as the runner has in flight."""

    def close(self) -> None:
        """Free the engine; closing twice does nothing."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class StatesShapes(Protocol):
    """A runner whose engine says itself which shapes it takes."""

    @property
    def shape_ranges(self) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Smallest and largest shape of each input."""


@runtime_checkable
class StatesLayerTimes(Protocol):
    """A runner that tells how long each layer takes."""

    def layer_times(self, feeds: Feeds) -> list[tuple[str, float]]:
        """Name and milliseconds of every layer of one inference, in the order of execution."""


def check_feeds(feeds: Feeds, inputs: Sequence[TensorSpec]) -> None:
    """Hold ``feeds`` against the inputs of a model: names, types, shapes; axes of one name have one length.

    Raises:
        BadInputError: the message says what is wrong, the remedy what the model takes.
    """
    takes = f"The model takes {'; '.join(map(str, inputs))}."
    names = {spec.name for spec in inputs}
    for what, wrong in (("missing", names - feeds.keys()), ("not an input of the model", feeds.keys() - names)):
        if wrong:
            raise BadInputError(f"{', '.join(map(repr, sorted(wrong)))}: {what}.", takes)
    axes: dict[str, int] = {}
    for spec in inputs:
        tensor = feeds[spec.name]
        if not isinstance(tensor, np.ndarray) or isinstance(tensor, np.ma.MaskedArray):
            raise BadInputError(
                f"The input {spec.name!r} is a {type(tensor).__name__}, not a plain numpy array.", takes
            )
        if tensor.dtype.name != spec.dtype or not tensor.dtype.isnative:
            order = "" if tensor.dtype.isnative else " in another machine's byte order"
            raise BadInputError(f"The input {spec.name!r} is {tensor.dtype.name}{order}, not {spec.dtype}.", takes)
        if not _shape_fits(tensor.shape, spec.shape, axes):
            lengths = f" with {_name_axes(axes)}" if axes else ""
            raise BadInputError(f"The input {spec.name!r} has the shape {list(tensor.shape)}{lengths}.", takes)


def _shape_fits(shape: tuple[int, ...], expected: tuple[int | str, ...], axes: dict[str, int]) -> bool:
    if len(shape) != len(expected) or 0 in shape:
        return False
    return all(
        have == (want if isinstance(want, int) else axes.setdefault(want, have) if want else have)
        for have, want in zip(shape, expected, strict=True)
    )


def _name_axes(axes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in axes.items())
