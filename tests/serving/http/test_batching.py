"""The queue in front of the engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import wait_until

from trt_facefusion.errors import GateError
from trt_facefusion.serving.batching import MicroBatcher
from trt_facefusion.serving.problems import DeadlineError, DrainingError, OverloadedError

FAR = 1e9


@dataclass(eq=False)
class Doubling:
    """Work that doubles numbers, and remembers what went in together."""

    limit: int = 4
    batches: list[list[int]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    closed: bool = False

    def run(self, items: Sequence[int], requests: Sequence[str]) -> Sequence[Any]:
        self.batches.append(list(items))
        assert self.gate.wait(30)
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item if item != 7 else GateError("seven", "take another") for item in items]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def work() -> Doubling:
    work = Doubling()
    work.gate.set()
    return work


@pytest.fixture
def batcher(work: Doubling) -> Iterator[MicroBatcher]:
    batcher = MicroBatcher(lambda: work, capacity=8, max_wait_s=0.2)
    batcher.start()
    yield batcher
    work.gate.set()
    assert batcher.close(30) and work.closed


def block(batcher: MicroBatcher, work: Doubling) -> None:
    """Let the engines be busy."""
    work.gate.clear()
    batcher.submit(work, [0], "first", FAR)
    wait_until(lambda: len(work.batches) == 1)


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(20, 1000), min_size=1, max_size=6), max_size=12))
def test_everyone_gets_the_answer_to_his_own_question(groups: list[list[int]]) -> None:
    work = Doubling()
    work.gate.set()
    batcher = MicroBatcher(lambda: work, capacity=1000, max_wait_s=0.0)
    batcher.start()
    futures = [batcher.submit(work, group, str(number), FAR) for number, group in enumerate(groups)]
    assert [[future.result(30) for future in row] for row in futures] == [[2 * n for n in group] for group in groups]
    assert batcher.close(30)
    assert sorted(chain(*work.batches)) == sorted(chain(*groups))
    assert all(len(batch) <= work.limit for batch in work.batches)


def test_what_waits_goes_in_together_up_to_the_limit(batcher: MicroBatcher, work: Doubling) -> None:
    block(batcher, work)
    futures = list(chain(*(batcher.submit(work, [n, n + 1], str(n), FAR) for n in (1, 3, 5))))
    (refused,) = batcher.submit(work, [7], "7", FAR)
    work.gate.set()
    with pytest.raises(GateError):
        refused.result(30)
    assert [future.result(30) for future in futures] == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_nobody_waits_for_company_unless_it_is_on_the_way(batcher: MicroBatcher, work: Doubling) -> None:
    batcher.max_wait_s = 30.0
    (alone,) = batcher.submit(work, [1], "1", FAR)
    assert alone.result(10) == 2
    coming = batcher.expect()
    (first,) = batcher.submit(work, [2], "2", FAR)
    time.sleep(0.1)
    assert not first.done()
    batcher.submit(work, [3], "3", FAR)
    coming.end()
    coming.end()  # ending twice takes nothing else back
    assert first.result(10) == 4 and work.batches == [[1], [2, 3]]


def test_the_wait_for_company_ends(batcher: MicroBatcher, work: Doubling) -> None:
    coming = batcher.expect()
    (first,) = batcher.submit(work, [1], "1", FAR)
    assert first.result(10) == 2
    coming.end()


def test_what_nobody_waits_for_is_not_inferred(batcher: MicroBatcher, work: Doubling) -> None:
    block(batcher, work)
    (left,) = batcher.submit(work, [1], "left", FAR)
    (late,) = batcher.submit(work, [2], "late", time.monotonic() + 0.05)
    (kept,) = batcher.submit(work, [3], "kept", FAR)
    assert left.cancel()
    time.sleep(0.1)
    work.gate.set()
    assert kept.result(30) == 6 and work.batches == [[0], [3]]
    with pytest.raises(DeadlineError):
        late.result(30)


def test_a_full_queue_takes_nothing_and_makes_room_for_those_who_leave(batcher: MicroBatcher, work: Doubling) -> None:
    block(batcher, work)
    futures = batcher.submit(work, list(range(20, 28)), "many", FAR)
    with pytest.raises(OverloadedError):
        batcher.submit(work, [1], "one", FAR)
    for future in futures[:3]:
        future.cancel()
    (accepted,) = batcher.submit(work, [1], "one", FAR)
    work.gate.set()
    assert accepted.result(30) == 2


def test_an_error_concerns_only_its_own_batch(batcher: MicroBatcher, work: Doubling) -> None:
    block(batcher, work)
    bad = batcher.submit(work, [13, 14, 15, 16], "bad", FAR)
    good = batcher.submit(work, [7, 8], "good", FAR)
    work.gate.set()
    for future in bad:
        with pytest.raises(ValueError, match="thirteen"):
            future.result(30)
    with pytest.raises(GateError):
        good[0].result(30)
    assert good[1].result(30) == 16 and batcher.is_alive


def test_at_the_end_what_waits_is_finished_and_nothing_more_is_taken(work: Doubling) -> None:
    batcher = MicroBatcher(lambda: work, capacity=8, max_wait_s=0.0)
    batcher.start()
    block(batcher, work)
    (waiting,) = batcher.submit(work, [1], "1", FAR)
    assert not batcher.close(0.05) and batcher.busy_s > 0
    with pytest.raises(DrainingError):
        batcher.submit(work, [2], "2", FAR)
    work.gate.set()
    assert batcher.close(30) and waiting.result(0) == 2 and work.closed


def test_engines_that_cannot_be_opened_are_told_to_whoever_starts() -> None:
    def fail() -> Doubling:
        raise GateError("no engine", "build one")

    batcher = MicroBatcher(fail, 8, 0.0)
    with pytest.raises(GateError, match="no engine"):
        batcher.start()
    assert batcher.close(30)
