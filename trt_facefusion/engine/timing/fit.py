"""Fits a GPU's factors to measured times of kernels, by robust least squares.

The time of a kernel is its launch and the longer of moving and multiplying, so with slow-downs x = 1 / factor

    t = launch * x_launch + max(memory * x_memory, arithmetic_r * x_r)        (r: the type it multiplies in)

is linear as soon as it is known which of the two is longer. That is decided by the current x, solved for, and decided
again, from several starts; the best end is taken. Deviations are relative, and large ones weigh less (Huber, 1964): a
kernel that the model does not understand must not bend the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trt_facefusion.engine.timing.factors import HIGHEST, LOWEST, Factors
from trt_facefusion.engine.timing.gpus import RATES
from trt_facefusion.engine.timing.roofline import EnginePrediction, KernelPrediction
from trt_facefusion.errors import BadInputError
from trt_facefusion.types import Array

FEWEST_LAYERS = 8
_HUBER = 0.25
"""Relative deviation from which on a kernel weighs less."""
_ROUNDS = 40
_STARTS = (1.0, 2.0, 4.0)
_PRIOR = 1e-4
"""Pull towards 1, of a kernel's weight: it decides only where no kernel says anything of a factor."""
_LAUNCH, _MEMORY = 0, 1


@dataclass(frozen=True)
class MeasuredKernel:
    """A kernel as it is predicted at the roof (all factors 1), and its measured time in milliseconds."""

    predicted: KernelPrediction
    measured_ms: float


def pair_measured(at_the_roof: EnginePrediction, times_ms: Mapping[str, float]) -> tuple[MeasuredKernel, ...]:
    """The kernels that were measured; ``times_ms`` names them as the engine does. What takes no time is left out."""
    return tuple(
        MeasuredKernel(kernel, times_ms[kernel.kernel.name])
        for kernel in at_the_roof.kernels
        if kernel.time_ms > 0 and times_ms.get(kernel.kernel.name, 0.0) > 0
    )


def fit(measured: Sequence[MeasuredKernel]) -> Factors:
    """The factors that explain the measured times best; of what no kernel tells it stays 1.

    Raises:
        BadInputError: fewer than `FEWEST_LAYERS` kernels were measured.
    """
    if len(measured) < FEWEST_LAYERS:
        raise BadInputError(
            f"only {len(measured)} kernels of the engine were measured by their names, too few to fit factors to",
            "profile an engine that this version built, of more layers",
        )
    rows = _Rows.of(measured)
    starts = itertools.product(_STARTS, repeat=2)
    ends = [rows.descend(rows.start(memory, arithmetic)) for memory, arithmetic in starts]
    return rows.read_factors(min(ends, key=rows.compute_loss))


def compute_deviation(measured: Iterable[MeasuredKernel], factors: Factors) -> tuple[float, float]:
    """How far predictions with ``factors`` are off.

    Returns:
        The median of |predicted - measured| / measured, and all predicted time over all measured time.
    """
    pairs = [(apply_factors(m.predicted, factors), m.measured_ms) for m in measured]
    relative = [abs(predicted - actual) / actual for predicted, actual in pairs]
    return float(np.median(relative)), sum(p for p, _ in pairs) / sum(a for _, a in pairs)


def apply_factors(at_the_roof: KernelPrediction, factors: Factors) -> float:
    """The predicted time of a kernel with ``factors``, in milliseconds."""
    return at_the_roof.at(factors).time_ms


@dataclass(frozen=True)
class _Rows:
    """Measured kernels as arrays: ``parts`` [kernels, 2 + rates] holds launch, memory, and arithmetic by rate."""

    parts: Array
    measured: Array

    @classmethod
    def of(cls, measured: Sequence[MeasuredKernel]) -> _Rows:
        parts = np.zeros((len(measured), 2 + len(RATES)))
        for row, kernel in zip(parts, measured, strict=True):
            row[_LAUNCH], row[_MEMORY] = kernel.predicted.launch_ms, kernel.predicted.memory_ms
            if kernel.predicted.work.macs:
                row[2 + RATES.index(kernel.predicted.work.arithmetic)] = kernel.predicted.arithmetic_ms
        return cls(parts, np.array([kernel.measured_ms for kernel in measured]))

    def start(self, memory: float, arithmetic: float) -> Array:
        return np.array([1.0, memory, *[arithmetic] * len(RATES)])

    def choose_longer(self, slowdowns: Array) -> Array:
        """``parts`` with what is shorter of memory and arithmetic set to 0."""
        scaled = self.parts * slowdowns
        multiplies = scaled[:, 2:].max(1) > scaled[:, _MEMORY]
        chosen: Array = self.parts.copy()
        chosen[multiplies, _MEMORY] = 0.0
        chosen[~multiplies, 2:] = 0.0
        return chosen

    def compute_relative(self, slowdowns: Array) -> Array:
        """(predicted - measured) / measured of every kernel."""
        relative: Array = self.choose_longer(slowdowns) @ slowdowns / self.measured - 1
        return relative

    def compute_loss(self, slowdowns: Array) -> float:
        """Huber's loss of the relative deviations."""
        off = np.abs(self.compute_relative(slowdowns))
        return float(np.where(off <= _HUBER, off**2 / 2, _HUBER * (off - _HUBER / 2)).sum())

    def descend(self, slowdowns: Array) -> Array:
        """The best slow-downs on the way from a start."""
        best = slowdowns
        for _ in range(_ROUNDS):
            step = self._solve(slowdowns)
            if self.compute_loss(step) < self.compute_loss(best):
                best = step
            if np.allclose(step, slowdowns, rtol=1e-6):
                break
            slowdowns = step
        return best

    def _solve(self, slowdowns: Array) -> Array:
        off = np.abs(self.compute_relative(slowdowns))
        weights = np.sqrt(np.minimum(1.0, _HUBER / np.maximum(off, 1e-12))) / self.measured
        prior = _PRIOR * np.eye(self.parts.shape[1])
        left = np.vstack([self.choose_longer(slowdowns) * weights[:, None], prior])
        right = np.concatenate([self.measured * weights, prior.diagonal()])
        solved: Array = np.linalg.lstsq(left, right, rcond=None)[0]
        return np.clip(solved, 1 / HIGHEST, 1 / LOWEST)

    def read_factors(self, slowdowns: Array) -> Factors:
        used: Array = np.count_nonzero(self.choose_longer(slowdowns), axis=0) > 0
        factors = np.where(used, 1 / slowdowns, 1.0)
        rates = {rate: float(factors[2 + i]) for i, rate in enumerate(RATES) if used[2 + i]}
        return Factors(float(factors[_MEMORY]), rates, float(factors[_LAUNCH]))
