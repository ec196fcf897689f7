"""Deterministic batches of network inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trt_facefusion.types import Feeds


@dataclass(frozen=True)
class Batches:
    """``count`` samples, at most ``batch_size`` at a time, always in the same order; can be read again and again.

    ``feeds`` makes the network inputs for the sample numbers it is given, when they are needed, so that only one batch
    is held at a time.
    """

    feeds: Callable[[Sequence[int]], Feeds]
    count: int
    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.count < 0 or self.batch_size < 1:
            raise ValueError("count must be 0 or more, batch_size 1 or more")

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[Feeds]:
        for start in range(0, self.count, self.batch_size):
            yield self.feeds(range(start, min(start + self.batch_size, self.count)))
