"""Types that several packages use."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Image = NDArray[np.uint8]
"""[H,W,3] uint8, RGB unless a name says otherwise."""

Feeds = Mapping[str, Array]
"""Network inputs by name; axis 0 is the batch."""

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``: called often, must be cheap; ``total`` 0 means unknown."""

Note = Callable[[str], None]
"""Takes a message for the user; one that begins with ``warning: `` is shown as such."""


def silent(stage: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


def drop_note(message: str) -> None:
    """The taker of messages that shows none."""


class Precision(str, enum.Enum):
    """Numeric precision of a node or of an engine, from the cheapest to the safest."""

    INT8 = "int8"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def safer(self) -> Precision | None:
        """The next step of the fall-back chain INT8 -> FP16 -> FP32, or None at its end."""
        return {Precision.INT8: Precision.FP16, Precision.FP16: Precision.FP32}.get(self)


@dataclass(frozen=True)
class TensorSpec:
    """A network input or output: ``shape`` holds ints, or names for dynamic axes; ``dtype`` is numpy's name."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes of an optimisation profile."""

    min: int = 1
    opt: int = 1
    max: int = 1

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"
