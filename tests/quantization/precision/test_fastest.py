"""The fastest plan is found by compiling few: exactly where times add up, nearly where neighbours act on each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.quantization.precision.fastest import find_fastest
from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.quantization.precision.time_model import GroupTime, TimeModel

TIMES = st.lists(st.tuples(st.floats(0.1, 20), st.floats(0.1, 20)), min_size=1, max_size=8)


class Compiler:
    """Engines whose layers take what they are said to, and more or less beside a neighbour in INT8.

    ``blur`` is how wrong the first estimates are, as a share; ``together`` how strong neighbours act.
    """

    def __init__(self, times: list[tuple[float, float]], seed: int = 0, blur: float = 0, together: float = 0) -> None:
        random = np.random.default_rng(seed)
        self.times, count = times, len(times)
        self.neighbours = [(i, i + 1) for i in range(count - 1)]
        self.acts = {(a, b): together * random.normal() * min(times[a][0], times[b][0]) for a, b in self.neighbours}
        self.compiled: list[GroupSet] = []
        every = frozenset(range(count))
        charged = [int8 * (1 + blur * random.normal()) for _, int8 in times]
        for (a, b), more in self.acts.items():  # what is charged to a layer has its part of the border
            charged[a], charged[b] = charged[a] + more / 2, charged[b] + more / 2
        groups = [GroupTime(fp16, max(int8, 0)) for (fp16, _), int8 in zip(times, charged, strict=True)]
        self.model = TimeModel(groups, self.neighbours, self.time(frozenset()))
        self.model.learn(every, self.time(every))

    def time(self, in_int8: GroupSet) -> float:
        alone = sum(int8 if index in in_int8 else fp16 for index, (fp16, int8) in enumerate(self.times))
        return 100 + alone + sum(more for pair, more in self.acts.items() if set(pair) <= in_int8)

    def __call__(self, in_int8: GroupSet) -> float:
        assert in_int8 not in self.compiled and in_int8 not in self.model.compiled, "compiled twice"
        self.compiled.append(in_int8)
        return self.time(in_int8)

    def cost(self, in_int8: GroupSet) -> float:
        return self.time(in_int8) + self.model.least_gain * len(in_int8)

    def find_ideal(self) -> float:
        every = range(len(self.times))
        return min(
            self.cost(frozenset(p)) for n in range(len(self.times) + 1) for p in itertools.combinations(every, n)
        )


@given(TIMES)
def test_the_fastest_is_found_exactly_where_times_add_up(times: list[tuple[float, float]]) -> None:
    compiler = Compiler(times)
    fastest = find_fastest(compiler.model, compiler, builds=99)
    assert compiler.cost(fastest) == pytest.approx(compiler.find_ideal(), abs=1e-9)
    assert all(int8 < fp16 for index, (fp16, int8) in enumerate(times) if index in fastest)


@given(TIMES, st.integers(0, 10**6), st.integers(0, 12))
def test_nothing_chosen_is_slower_than_fp16_or_all_in_int8_and_builds_are_bounded(
    times: list[tuple[float, float]], seed: int, builds: int
) -> None:
    compiler = Compiler(times, seed, blur=0.5, together=0.8)
    fastest = find_fastest(compiler.model, compiler, builds)
    every = frozenset(range(len(times)))
    assert len(compiler.compiled) <= builds and fastest in compiler.model.compiled
    assert compiler.cost(fastest) <= min(compiler.cost(frozenset()), compiler.cost(every)) + 1e-9
    assert all(compiler.model.predict(plan) == compiler.time(plan) for plan in compiler.compiled)


@pytest.mark.parametrize(("blur", "together", "worst", "mean"), [(0.1, 0.1, 0.005, 0.0005), (0.2, 0.3, 0.03, 0.003)])
def test_with_interactions_and_wrong_estimates_it_is_near_the_best_of_all_plans(
    blur: float, together: float, worst: float, mean: float
) -> None:
    random, lost, builds = np.random.default_rng(5), [], []
    for seed in range(40):
        fp16 = random.uniform(1, 20, 8)
        compiler = Compiler(list(zip(fp16, fp16 * random.uniform(0.5, 1.3, 8), strict=True)), seed, blur, together)
        fastest = find_fastest(compiler.model, compiler, builds=99)
        lost.append(compiler.cost(fastest) / compiler.find_ideal() - 1)
        builds.append(len(compiler.compiled))
    assert max(lost) <= worst and np.mean(lost) <= mean
    assert np.mean(builds) < 12  # of 256 plans


def test_two_layers_that_only_pay_together_are_raised_together() -> None:
    """Between FP16 layers each alone costs a cast at both borders: either both are in INT8, or none."""
    compiler = Compiler([(10, 9), (10, 12), (10, 12), (10, 9)])
    compiler.acts = {(1, 2): -1.0, (0, 1): -1.5, (2, 3): -1.5}
    compiler.model = TimeModel([GroupTime(10, 9)] * 4, compiler.neighbours, compiler.time(frozenset()))
    compiler.model.learn(frozenset(range(4)), compiler.time(frozenset(range(4))))
    assert compiler.cost(find_fastest(compiler.model, compiler, 20)) == pytest.approx(compiler.find_ideal())


@given(TIMES, st.integers(0, 10**6))
def test_what_was_compiled_corrects_estimates_and_takes_the_doubt_away(
    times: list[tuple[float, float]], seed: int
) -> None:
    compiler = Compiler(times, seed, blur=0.3, together=0.3)
    model, every = compiler.model, frozenset(range(len(times)))
    before = model.compute_doubt(frozenset({0}))
    model.learn(frozenset({0}), compiler.time(frozenset({0})))
    assert model.predict(frozenset({0})) == compiler.time(frozenset({0}))
    assert model.compute_doubt(frozenset({0})) == 0 <= before
    if len(times) > 2:
        unknown = every - {0}
        assert model.compute_doubt(unknown) >= 0 and np.isfinite(model.predict(unknown))
