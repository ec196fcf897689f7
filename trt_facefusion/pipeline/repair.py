"""Raising the layers of a plan that cost the picture most: measured on faces, not guessed.

Each INT8 node's price is what the picture gains when that node alone goes back to FP16, everything else staying INT8.
Measured this way (and not the other way round, one INT8 node in an FP32 network) errors that hide or amplify one
another are counted as they are in the plan that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.accuracy.metrics import ssim
from trt_facefusion.precision import Plan
from trt_facefusion.types import Precision, Progress, silent

Paint = Callable[[Plan], NDArray[np.float32]]
"""Pictures [N,H,W,3] that a plan gives on a few calibration faces."""

_SAFETY = 1.3
"""The gains of single nodes overlap, so more is raised than their sum says is needed."""


@dataclass(frozen=True)
class Price:
    """What raising one node gains: mean SSIM over the measuring faces, against its share of the MACs."""

    node: str
    gain: float
    macs: int

    @property
    def worth(self) -> float:
        """Gain per MAC given up: what the search maximises."""
        return self.gain / max(self.macs, 1)


def measure_prices(
    plan: Plan, paint: Paint, reference: NDArray[np.float32], progress: Progress = silent
) -> tuple[Price, ...]:
    """The price of every INT8 node of ``plan``, the best bargain first."""
    wanted = reference.clip(0, 1)
    nodes = [node for node in plan.nodes if node.precision is Precision.INT8]
    base = float(ssim(wanted, paint(plan).clip(0, 1)).mean())
    prices = []
    for done, node in enumerate(nodes, 1):
        raised = paint(plan.raised({node.name: "measured"}))
        prices.append(Price(node.name, float(ssim(wanted, raised.clip(0, 1)).mean()) - base, node.macs))
        progress("sensitivity", done, len(nodes))
    return tuple(sorted(prices, key=lambda price: -price.worth))


def choose_raises(prices: tuple[Price, ...], deficit: float) -> dict[str, str]:
    """The fewest MACs' worth of nodes whose gains together cover ``deficit``: node -> reason for the plan.

    Nodes are taken by gain per MAC; then those that turn out not to be needed are dropped again, the dearest first.
    """
    wanted = deficit * _SAFETY
    taken: list[Price] = []
    for price in prices:
        if sum(p.gain for p in taken) >= wanted or price.gain <= 0:
            break
        taken.append(price)
    for price in sorted(taken, key=lambda p: -p.macs):
        rest = [p for p in taken if p is not price]
        if sum(p.gain for p in rest) >= wanted:
            taken = rest
    return {p.node: f"raised: in INT8 it alone costs {p.gain:.2%} SSIM" for p in taken}


def without(prices: tuple[Price, ...], raised: Mapping[str, str]) -> tuple[Price, ...]:
    """The prices of nodes that were not raised yet."""
    return tuple(price for price in prices if price.node not in raised)
