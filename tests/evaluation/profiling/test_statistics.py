from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.evaluation.profiling.measure import CyclingInputs, list_powers_between, time_interleaved
from trt_facefusion.evaluation.profiling.statistics import Latency, alternate_order, compare, compute_throughput

TIMES = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=60)


@given(TIMES)
def test_percentiles_rise_and_stay_inside_of_what_was_measured(times: list[float]) -> None:
    found = list(Latency.of(times).as_dict().values())
    assert found == sorted(found)
    assert min(times) <= found[0] and found[-1] == max(times)


@given(TIMES, st.randoms())
def test_percentiles_do_not_depend_on_the_order(times: list[float], random) -> None:
    mixed = list(times)
    random.shuffle(mixed)
    assert Latency.of(mixed) == Latency.of(times)


def test_percentiles_of_a_hundred_and_one_values_are_those_values() -> None:
    found = Latency.of([float(value) for value in range(101)])
    assert found == Latency(50, 90, 95, 99, 100)


@given(TIMES, st.floats(0.1, 10))
def test_an_engine_that_takes_k_times_as_long_is_told_so_without_doubt(times: list[float], factor: float) -> None:
    found = compare(times, [factor * time for time in times])
    assert found.ratio == pytest.approx(factor)
    assert found.low <= found.high
    if len(set(times)) == 1:
        assert found.low == pytest.approx(factor) == found.high


@given(st.integers(0, 1000))
def test_the_interval_encloses_the_true_ratio_nearly_always(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.lognormal(0, 0.2, (2, 200))
    found = compare(noise[0], 1.3 * noise[1])
    assert found.low < found.ratio < found.high
    assert found.low < 1.3 * 1.12 and found.high > 1.3 / 1.12


def test_what_slows_both_down_cancels_out() -> None:
    load = np.linspace(1, 5, 150)
    found = compare(10 * load, 11 * load)
    assert (found.low, found.ratio, found.high) == pytest.approx((1.1, 1.1, 1.1), rel=0.05)
    assert found.differ


@pytest.mark.slow
def test_equal_engines_seldom_differ() -> None:
    """The interval has 95 % confidence: of 200 comparisons of equals, about 10 are wrong."""
    rng = np.random.default_rng(0)
    wrong = sum(compare(rng.lognormal(0, 0.1, 150), rng.lognormal(0, 0.1, 150)).differ for _ in range(200))
    assert wrong <= 20


def test_rounds_must_match() -> None:
    for wrong in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="rounds"):
            compare(*wrong)


@given(st.integers(1, 4), st.integers(1, 30))
def test_every_engine_has_every_place_in_the_order_equally_often(count: int, pairs: int) -> None:
    order = alternate_order(count, 2 * pairs)
    for engine in range(count):
        places = [turn.index(engine) for turn in order]
        assert sum(places) == pairs * (count - 1)


def test_calls_are_interleaved_and_warm_ups_do_not_count() -> None:
    now = [0.0]
    made: list[str] = []

    def call(name: str, seconds: float):
        def run() -> None:
            made.append(name)
            now[0] += seconds

        return run

    times = time_interleaved([call("a", 1), call("b", 2)], 2, 3, clock=lambda: now[0])
    assert times == [[1000] * 3, [2000] * 3]
    assert "".join(made) == "abba" + "abbaab"


@given(st.integers(1, 40), st.integers(0, 40))
def test_a_sweep_has_both_ends_and_the_list_powers_between(low: int, more: int) -> None:
    found = list_powers_between(low, low + more)
    assert found[0] == low and found[-1] == low + more
    assert found == sorted(set(found))
    assert all(size & (size - 1) == 0 for size in found[1:-1])


def test_inputs_take_turns() -> None:
    ring = CyclingInputs([{"x": np.zeros((2, 1))}, {"x": np.ones((2, 1))}])
    assert ring.batch == 2
    assert [feeds["x"][0, 0] for feeds in ring.take(3)] == [0, 1, 0]
    assert ring.next()["x"][0, 0] == 1
    assert compute_throughput(10, 2.0) == 5
