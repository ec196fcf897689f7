"""What a plan search makes least of. All prices of plans are costs: lower is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from trt_facefusion.quantization.precision.groups import Group, GroupSet

_BYTES_WEIGHT = 0.1
"""What a share of the weights' bytes is worth against the same share of the MACs: they are read once per inference."""
LEAST_PRICE = 1e-9
"""Prices are above 0, so that a gain can be divided by one."""
_INT8_BYTES, _FP16_BYTES = 1, 2


class Objective(Protocol):
    """Says what plans cost, without measuring pictures.

    ``name`` is as the command line calls it. Costs that differ by less than the share ``resolution`` are equal: they
    cannot be told apart, so the more exact plan is the better one.
    """

    name: str
    resolution: float = 0.0

    def cost(self, in_int8: GroupSet) -> float:
        """What a plan costs, in the objective's own unit; lower is better."""

    def price(self, in_int8: GroupSet, raised: Iterable[int]) -> float:
        """What is given up where groups of a plan are raised, above 0, in any unit: budget is won back where it buys
        most."""

    def is_sure(self, in_int8: GroupSet) -> bool:
        """Whether the cost of a plan is more than an estimate."""
        return True

    def make_sure(self, in_int8: GroupSet, *, for_front: bool = False) -> bool:
        """Find out the cost of a plan, also where that takes long; False where it stays an estimate.

        ``for_front``: only if enough is left for plans that may be chosen.
        """
        return True

    def describe(self, in_int8: GroupSet) -> Mapping[str, Any]:
        """What the record of a search says of a plan beside its MACs and bytes."""
        return {}

    def explain(self, group: int, plan: GroupSet) -> str:
        """What a group spares in INT8 beside the rest of ``plan``, in words; empty where figures say it."""
        return ""


class MacsObjective(Objective):
    """Most multiplications in INT8. The cost is what is not in INT8 of ``total_macs``, for one face.

    Of two groups with equal MACs the one with fewer weights is the cheaper one to raise.
    """

    name = "macs"

    def __init__(self, groups: Sequence[Group], total_macs: int) -> None:
        self.groups, self.total_macs = tuple(groups), total_macs
        weights, macs = sum(group.weights for group in groups) or 1, max(total_macs, 1)
        self._prices = [max(g.macs / macs + _BYTES_WEIGHT * g.weights / weights, LEAST_PRICE) for g in groups]

    def cost(self, in_int8: GroupSet) -> float:
        """MACs that are not in INT8."""
        return self.total_macs - sum(self.groups[index].macs for index in in_int8)

    def price(self, in_int8: GroupSet, raised: Iterable[int]) -> float:
        """The share of MACs, and a little of the weights; the same in every plan."""
        return sum(self._prices[index] for index in raised)


class SizeObjective(Objective):
    """Fewest bytes of weights in the engine; scales are not counted. ``fixed_bytes`` are in no group."""

    name = "size"

    def __init__(self, groups: Sequence[Group], fixed_bytes: int) -> None:
        self.groups, self.fixed_bytes = tuple(groups), fixed_bytes

    def cost(self, in_int8: GroupSet) -> float:
        """Bytes of all weights: one for each that INT8 layers have, two for each of other groups."""
        each = (g.weights * (_INT8_BYTES if i in in_int8 else _FP16_BYTES) for i, g in enumerate(self.groups))
        return self.fixed_bytes + sum(each)

    def price(self, in_int8: GroupSet, raised: Iterable[int]) -> float:
        """The bytes that come back; the same in every plan."""
        return max(sum(self.groups[index].weights for index in raised), LEAST_PRICE)
