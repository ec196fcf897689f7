from __future__ import annotations

import numpy as np

from trt_facefusion.build.tuning.threshold_descent import CHOOSING, Candidate, descend, select_distinct

FACES = 16
NOISE = np.random.default_rng(0).normal(0, 1e-3, FACES)
TABLE = {"a": 1.0, "b": 1.0, "c": 1.0}
CANDIDATES = [Candidate(name, "max", (("mse", 0.5), ("entropy", 0.25))) for name in "abc"]


class Pictures:
    """SSIM of 16 faces that differ among themselves, with what each threshold adds to them."""

    def __init__(self, gains):
        self.gains = gains  # (tensor, amax) -> gain [16] or one number
        self.calls = 0

    def __call__(self, table, which):
        self.calls += 1
        total = 0.98 + 20 * NOISE
        for name, amax in table.items():
            total = total + self.gains.get((name, amax), 0.0)
        return total[which]


def test_the_best_threshold_of_a_tensor_is_taken_and_explained():
    judge = Pictures({("b", 0.5): 1e-3, ("b", 0.25): 2e-3})
    found = descend(TABLE, CANDIDATES, judge, 100)
    assert found.table == {"a": 1.0, "b": 0.25, "c": 1.0}
    chosen = found.tensors["b"]
    assert (chosen.rule, chosen.instead_of) == ("entropy", "max")
    assert np.isclose(chosen.gain, 2e-3) and np.isclose(chosen.confirmed, 2e-3)
    assert "entropy instead of max: SSIM +0.200%" in chosen.reason
    assert found.trials == judge.calls == 9


def test_gains_that_are_noise_are_refused():
    judge = Pictures({("a", 0.5): NOISE, ("b", 0.25): 1e-6, ("c", 0.5): -1e-3})
    assert descend(TABLE, CANDIDATES, judge, 100).table == TABLE


def test_a_gain_on_the_choosing_half_only_is_refused():
    only_there = np.zeros(FACES)
    only_there[CHOOSING] = 1e-3
    found = descend(TABLE, CANDIDATES, Pictures({("a", 0.5): only_there}), 100)
    assert found.table == TABLE and not found.tensors


def test_later_tensors_start_from_what_earlier_ones_won():
    judge = Pictures({("a", 0.5): 1e-3, ("c", 0.25): 1e-3})
    found = descend(TABLE, CANDIDATES, judge, 100)
    assert found.table == {"a": 0.5, "b": 1.0, "c": 0.25}
    assert np.isclose(judge(found.table, slice(None)).mean() - judge(TABLE, slice(None)).mean(), 2e-3)


def test_the_budget_is_never_exceeded():
    for budget in range(1, 14):
        judge = Pictures({("a", 0.5): 1e-3, ("b", 0.5): 1e-3, ("c", 0.5): 1e-3})
        found = descend(TABLE, CANDIDATES, judge, budget)
        assert judge.calls == found.trials <= budget
        assert len(found.tensors) == max(budget - 1, 0) // 4


def test_thresholds_that_hardly_differ_are_one():
    others = [("entropy", 1.04), ("mse", 0.5), ("percentile:99.99", 0.51), ("percentile:99.999", 0.8)]
    assert select_distinct(1.0, others) == (("mse", 0.5), ("percentile:99.999", 0.8))
