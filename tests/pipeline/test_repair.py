"""Which nodes are raised: those that gain most for the MACs they give up, and no more than needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.graph import Role
from trt_facefusion.pipeline.repair import Price, choose_raises, measure_prices, without
from trt_facefusion.precision import Plan, PlannedNode
from trt_facefusion.types import Precision

GAINS = st.lists(st.tuples(st.floats(-0.01, 0.05), st.integers(1, 10**9)), min_size=1, max_size=12)


def priced(pairs: list[tuple[float, int]]) -> tuple[Price, ...]:
    prices = [Price(f"n{index}", gain, macs) for index, (gain, macs) in enumerate(pairs)]
    return tuple(sorted(prices, key=lambda price: -price.worth))


@given(GAINS, st.floats(1e-4, 0.1))
def test_what_is_raised_covers_the_deficit_or_is_all_that_helps(pairs: list[tuple[float, int]], deficit: float) -> None:
    prices = priced(pairs)
    gains = {price.node: price.gain for price in prices}
    raised = choose_raises(prices, deficit)
    assert all(gains[name] > 0 for name in raised)
    enough = sum(gains[name] for name in raised) >= deficit
    assert enough or set(raised) == {name for name, gain in gains.items() if gain > 0}


@given(GAINS, st.floats(1e-4, 0.1))
def test_no_raised_node_is_superfluous(pairs: list[tuple[float, int]], deficit: float) -> None:
    prices = priced(pairs)
    gains = {price.node: price.gain for price in prices}
    raised = choose_raises(prices, deficit)
    total = sum(gains[name] for name in raised)
    if total >= 1.3 * deficit:
        assert all(total - gains[name] < 1.3 * deficit + 1e-12 for name in raised)


def test_cheap_nodes_are_preferred_to_dear_ones_of_equal_gain() -> None:
    prices = priced([(0.02, 1_000_000), (0.02, 1_000), (0.0, 1)])
    assert list(choose_raises(prices, 0.01)) == ["n1"]
    assert [price.node for price in without(prices, {"n1": ""})] == ["n0", "n2"]


def test_prices_are_measured_one_node_at_a_time() -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(size=(2, 16, 16, 3)).astype(np.float32)
    noise = rng.normal(size=reference.shape).astype(np.float32)
    harm = {"worst": 0.2, "mild": 0.02, "harmless": 0.0}
    nodes = tuple(PlannedNode(name, "Conv", Role.CONV, Precision.INT8, "", 100) for name in harm)

    def paint(plan: Plan) -> np.ndarray:
        return reference + sum(harm[name] for name in plan.names(Precision.INT8)) * noise

    seen: list[int] = []
    prices = measure_prices(Plan("m", "d", nodes), paint, reference, lambda _, done, total: seen.append(done))
    assert [price.node for price in prices] == ["worst", "mild", "harmless"] and seen == [1, 2, 3]
    assert prices[-1].gain == pytest.approx(0)
