"""What a picture metric is: a figure of each face, how it is pooled over faces, shown, and limited."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.embedder import Embedder

Pictures = NDArray[np.floating[Any]]
"""RGB pictures [N,H,W,3], float32 or float64, in [0,1]."""
PerFace = NDArray[np.float64]
"""One number for each face [N]."""


class Unit(Enum):
    """How a figure is written."""

    SHARE = "a share of 1, written in per cent"
    DECIBEL = "dB"
    NUMBER = "a plain number"


@dataclass(frozen=True)
class Limit:
    """A limit that a figure can be held to.

    ``name`` is what settings, manifests and keys call it: ``max_...`` where lower is better, ``min_...`` where higher
    is. ``subject`` is the figure in the sentence that says why an engine failed. ``help`` is that of the command
    line's option, which takes values from ``least`` to ``most``; there is no option without it. The option is called
    as the limit unless ``flag`` says otherwise.
    """

    name: str
    subject: str
    help: str | None = None
    least: float | None = None
    most: float | None = None
    flag: str | None = None

    @property
    def option(self) -> str:
        """The command line's option."""
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def bound(self) -> str:
        """``at most`` or ``at least``."""
        return "at least" if self.name.startswith("min_") else "at most"

    @property
    def short_name(self) -> str:
        """The limited figure as searches call it: the name without ``max_`` or ``min_``."""
        return self.name.partition("_")[2]


@dataclass(frozen=True)
class Figure:
    """One number that a metric gives for all faces.

    Attributes:
        key: what JSON calls it.
        label: what tables and reports call it.
        pool: makes one number of those of all faces.
        unit: how it is written.
        higher_is_better: the direction in which it improves.
        exact: its value for equal pictures.
        limit: the limit that it can be held to.
        shown: whether people are shown it, or only JSON holds it.
        worst_key: the figure of the same metric that speaks of the worst face.
        of_worst: whether it speaks of the worst face.
        of_swaps: whether it says something only of networks that take an identity.
        alternative: whether it is one of several of which one is measured: people see it where it was.
        pool_of_plans: makes one number where plans are searched, if otherwise than ``pool``.
    """

    key: str
    label: str
    pool: Callable[[PerFace], float]
    unit: Unit = Unit.NUMBER
    higher_is_better: bool = False
    exact: float = 0.0
    limit: Limit | None = None
    shown: bool = True
    worst_key: str | None = None
    of_worst: bool = False
    of_swaps: bool = False
    alternative: bool = False
    pool_of_plans: Callable[[PerFace], float] | None = None

    def of_plan(self, values: PerFace) -> float | None:
        """The figure of a plan from the values [N] of its faces; None where one of them is unknown (NaN)."""
        return None if np.isnan(values).any() else (self.pool_of_plans or self.pool)(values)

    def spent(self, measured: float | None, limit: float) -> float:
        """The share of what ``limit`` allows that ``measured`` spends: above 1 it is broken, also where it is None.

        A limit of nothing counts as one of 1e-9.
        """
        if measured is None:
            return float("inf")
        sign = -1 if self.higher_is_better else 1
        return max(sign * (measured - self.exact), 0.0) / max(sign * (limit - self.exact), 1e-9)

    def keeps(self, measured: float | None, limit: float) -> bool:
        """Whether ``measured`` is no worse than ``limit``; what was not measured is."""
        if measured is None:
            return False
        return measured >= limit if self.higher_is_better else measured <= limit


@dataclass(frozen=True)
class Tools:
    """What metrics may use beside the pictures: an embedder, the landmark template that crops are aligned with, and the
    file of the network behind the classic LPIPS."""

    embedder: Embedder | None = None
    template: str | None = None
    lpips_backbone: Path | None = None


class Metric(ABC):
    """A way to compare pictures with those of the reference, face by face.

    ``name`` is its own among the metrics, ``figures`` is what it gives, in the order of JSON. ``broken`` is the value
    of a face with NaN or infinity; without one such a face is measured as a black picture. ``least_side_px`` is the
    smallest side of pictures that it can measure. Of the metrics of one ``family`` only the one of the lowest
    ``preference`` that can measure does so, unless a limit speaks of another.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[Figure, ...]]
    broken: ClassVar[float | None] = None
    least_side_px: ClassVar[int] = 1
    family: ClassVar[str | None] = None
    preference: ClassVar[int] = 0

    def __init__(self, tools: Tools | None = None) -> None:
        self.tools = tools or Tools()

    @classmethod
    def can_measure(cls, tools: Tools) -> bool:
        """Whether ``tools`` hold what it needs."""
        del tools
        return True

    @classmethod
    def require(cls, tools: Tools) -> str:
        """Digest of the files that it measures by, beside those of this package.

        Raises:
            BadInputError, ModelError: one is missing, with how to get it.
        """
        del tools
        return ""

    @property
    def described(self) -> str:
        """All that decides its values, for keys of what was measured."""
        return self.name

    def describe_faces(self, faces: int, height: int, width: int) -> str:
        """`described`, and how many of ``faces`` pictures of that size it measures, where that is not all."""
        del faces, height, width
        return self.described

    @abstractmethod
    def per_face(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """The value [N] of each face of two sets of pictures [N,H,W,3] float32 in [0,1]; all are finite."""


def mean(values: PerFace) -> float:
    """The mean over faces."""
    return float(values.mean())


def mean_of_measured(values: PerFace) -> float:
    """The mean over the faces that were measured; NaN stands for one that was not."""
    return float(np.nanmean(values))


def lowest(values: PerFace) -> float:
    """The lowest value of a face."""
    return float(values.min())


def highest(values: PerFace) -> float:
    """The highest value of a face."""
    return float(values.max())
