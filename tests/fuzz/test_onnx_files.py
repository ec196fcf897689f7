from __future__ import annotations

import pytest
from onnx_files import survey, whole_files

from trt_facefusion.model.graph import prepare, read_input_specs


def test_the_files_are_whole_before_they_are_damaged() -> None:
    for model in whole_files():
        prepare(
            model, {s.name: tuple(n if isinstance(n, int) else 8 for n in s.shape[1:]) for s in read_input_specs(model)}
        )


@pytest.mark.parametrize(
    "seeds",
    [range(100), pytest.param(range(100, 5000), marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
    ids=["few", "many"],
)
def test_a_damaged_file_is_read_or_refused(seeds: range) -> None:
    wrong = [outcome for outcome in survey(seeds) if not outcome.right]
    assert not wrong
