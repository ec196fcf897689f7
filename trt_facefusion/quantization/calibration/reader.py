"""Deterministic batches of network inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

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
    done: int = 0
    """Batches to leave out at the beginning."""

    def __post_init__(self) -> None:
        if self.count < 0 or self.batch_size < 1:
            raise ValueError("count must be 0 or more, batch_size 1 or more")

    def __len__(self) -> int:
        """Number of batches, with those that are left out."""
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[Feeds]:
        for start in range(self.done * self.batch_size, self.count, self.batch_size):
            yield self.feeds(range(start, min(start + self.batch_size, self.count)))

    def after(self, done: int) -> Batches:
        """The same batches without the first ``done``."""
        return replace(self, done=done)
