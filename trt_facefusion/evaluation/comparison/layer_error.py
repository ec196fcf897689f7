"""Where an error enters a network: every tensor's error, split into what its node adds and what came in.

For each tensor t, with a the reference's value, b the candidate's, and l what the candidate's node makes of the
*reference's* inputs::

    b - a  =  (l - a)  +  (b - l)
    total     added       inherited

``added`` is what this node does wrong by itself, whatever happened before it; a node that only passes on an error has
nothing there. All three are root mean squares over samples and elements, as shares of the root mean square of a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trt_facefusion.types import Array


@dataclass(frozen=True)
class Node:
    """The node that makes a tensor: its name and operator in the reference, what each side computes it in."""

    name: str
    op: str
    precision: str
    reference_precision: str


@dataclass(frozen=True)
class LayerError:
    """The error of one tensor over all samples.

    ``added``, ``inherited`` and ``total`` are relative (1 is 100 %), None where nothing finite is left; ``max_abs`` is
    the largest total error in the tensor's own unit. ``nonfinite`` counts values that are NaN or infinite in the
    candidate and finite in the reference, ``nonfinite_added`` those that are so on the reference's inputs: they arise
    here.
    ``gain`` is the mean SSIM that the candidate's picture wins when this node alone is computed as the reference does;
    None where it was not measured.
    """

    tensor: str
    node: Node
    added: float | None
    inherited: float | None
    total: float | None
    max_abs: float | None
    nonfinite: int
    nonfinite_added: int
    gain: float | None = None

    @property
    def rank(self) -> tuple[int, float]:
        """What layers are sorted by, the worst largest: values that stop being finite, then the error added."""
        return self.nonfinite_added, math.inf if self.added is None else self.added


class LayerSums:
    """Collects one tensor's squared errors batch by batch, and keeps no tensors."""

    def __init__(self) -> None:
        self._signal = self._added = self._inherited = self._total = 0.0
        self._max = 0.0
        self._finite = self._nonfinite = self._nonfinite_added = 0

    def add(self, reference: Array, candidate: Array, local: Array) -> None:
        """One batch: the values of the reference, the candidate, and the candidate's node on the reference's inputs.

        Values that are not finite in the reference (a mask of minus infinity) say nothing and are left out.
        """
        if not self._add_squares(reference, candidate, local):
            comparable = np.isfinite(reference)
            bad, bad_here = comparable & ~np.isfinite(candidate), comparable & ~np.isfinite(local)
            self._nonfinite += int(bad.sum())
            self._nonfinite_added += int(bad_here.sum())
            usable = comparable & ~bad & ~bad_here
            self._add_squares(reference[usable], candidate[usable], local[usable])

    def _add_squares(self, reference: Array, candidate: Array, local: Array) -> bool:
        """Add the squares, unless something is not finite; gives whether it did."""
        wide = reference.astype(np.float64)
        with np.errstate(invalid="ignore"):
            total, added = candidate - wide, local - wide
            signal, total_power, added_power = _sum_squares(wide), _sum_squares(total), _sum_squares(added)
        if not math.isfinite(signal + total_power + added_power):
            return False
        self._signal += signal
        self._total += total_power
        self._added += added_power
        self._inherited += _sum_squares(total - added)
        self._max = max(self._max, float(np.abs(total).max(initial=0.0)))
        self._finite += reference.size
        return True

    def finish(self, tensor: str, node: Node) -> LayerError:
        """The figures over everything that was added."""
        return LayerError(
            tensor=tensor,
            node=node,
            added=self._relate(self._added),
            inherited=self._relate(self._inherited),
            total=self._relate(self._total),
            max_abs=self._max if self._finite else None,
            nonfinite=self._nonfinite,
            nonfinite_added=self._nonfinite_added,
        )

    def _relate(self, error: float) -> float | None:
        """Root of ``error`` over the signal; where the reference is all zeros, any error is all of the value: 1."""
        if not self._finite:
            return None
        if self._signal == 0:
            return float(error > 0)
        return math.sqrt(error / self._signal)


def _sum_squares(values: Array) -> float:
    return float(np.vdot(values, values))
