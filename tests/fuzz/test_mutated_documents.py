"""Mutated documents of our own: a right exit code, no traceback, no hang, no great memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import documents
from memory import forget_peak, peak_bytes


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_no_document_ends_in_a_traceback(tmp_path: Path, count: int) -> None:
    place = documents.Documents(tmp_path)
    before = forget_peak()
    outcomes = [place.tried(seed) for seed in range(count)]
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert {outcome.kind for outcome in outcomes if outcome.code} == set(place.kinds), (
        "each kind was refused at least once"
    )
    assert peak_bytes() - before < documents.LARGEST_BYTES


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_no_plan_ends_in_a_traceback(count: int) -> None:
    outcomes = [documents.plan_tried(seed) for seed in range(count)]
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert sum(outcome.code == 2 for outcome in outcomes) > count / 2


def test_documents_as_they_were_are_read(tmp_path: Path) -> None:
    place = documents.Documents(tmp_path)
    assert {kind: read() for kind, (_, read) in place.kinds.items()} == dict.fromkeys(place.kinds, 0)
