"""Requests with tensors of one shape are put behind each other along the batch, inferred once, and taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trt_facefusion.engine.runtime.base import check_feeds
from trt_facefusion.errors import BadInputError, TrtFaceFusionError
from trt_facefusion.serving.seam import RunsTensors, TensorInterface
from trt_facefusion.types import Array, Feeds

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclass(frozen=True)
class TensorWork:
    """Inferences of feeds that differ in their batch alone; ``shapes`` holds name, shape and type of each input."""

    engines: RunsTensors
    shapes: Shapes
    limit: int

    def run(
        self, items: Sequence[Feeds], requests: Sequence[str]
    ) -> Sequence[Mapping[str, Array] | TrtFaceFusionError]:
        """The outputs for each of ``items``, or why there are none."""
        if len(items) == 1:
            return [self.engines.infer(items[0])]
        merged = {name: np.concatenate([feeds[name] for feeds in items]) for name in items[0]}
        outputs = self.engines.infer(merged)
        ends = np.cumsum([len(next(iter(feeds.values()))) for feeds in items])
        parts = {name: np.split(tensor, ends[:-1]) for name, tensor in outputs.items()}
        return [{name: tensors[number] for name, tensors in parts.items()} for number in range(len(items))]


def plan_work(engines: RunsTensors, feeds: Feeds) -> tuple[TensorWork, int]:
    """The work that ``feeds`` are part of, and their share of its limit.

    Raises:
        BadInputError: an input is missing, unknown, of another type or shape, or the batch is too large.
    """
    interface = engines.tensors
    check_feeds(feeds, interface.inputs)
    if not is_batched(interface):
        return TensorWork(engines, _list_shapes(feeds, 0), 1), 1
    counts = {len(tensor) for tensor in feeds.values()}
    if len(counts) != 1:
        raise BadInputError("the inputs differ in their batch", "send as many samples of each")
    count = counts.pop()
    if count > interface.batch:
        raise BadInputError(f"the batch is {count}", f"send at most {interface.batch} samples in a request")
    return TensorWork(engines, _list_shapes(feeds, 1), interface.batch), count


def is_batched(interface: TensorInterface) -> bool:
    """Whether the first axis of everything is a batch of any size."""
    specs = (*interface.inputs, *interface.outputs)
    return all(spec.shape and not isinstance(spec.shape[0], int) for spec in specs)


def _list_shapes(feeds: Feeds, skip: int) -> Shapes:
    return tuple(sorted((name, tensor.shape[skip:], tensor.dtype.name) for name, tensor in feeds.items()))
