"""`prepare` against onnxruntime running the file as it is: every operator that generators use, every opset."""

from __future__ import annotations

import pytest
from small_graphs import GRAPHS, difference, trials


@pytest.mark.parametrize("name", sorted({small.name for small in GRAPHS}))
def test_preparing_changes_no_picture(name: str) -> None:
    for trial in trials(name):
        assert difference(trial) < 1e-5, trial


def test_enough_graphs_are_tried() -> None:
    assert len(list(trials())) >= 500
    assert {trial.opset for trial in trials()} == set(range(7, 22))
