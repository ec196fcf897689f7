"""The parts of a video that no codec takes part in."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.errors import StoreError
from trt_facefusion.swap.video.flow import run_overlapped
from trt_facefusion.swap.video.journal import Journal, Progressed, StoredPacket
from trt_facefusion.swap.video.mux import order_times

PACKETS = [StoredPacket(number * 3, 3, number == 0, bytes([number]) * 50) for number in range(4)]


def test_whole_segments_survive_and_a_part_of_one_does_not(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with Journal(out, "key") as journal:
        journal.append(PACKETS, 4, 2)
        journal.append(PACKETS, 4, 3)
        path = journal.path
    whole = path.read_bytes()
    for cut in (1, 20, 150, 260):
        path.write_bytes(whole[:-cut])
        with Journal(out, "key") as journal:
            assert journal.progress == Progressed(1, 4, 2) and list(journal.read()) == PACKETS
            assert not journal.restarted
            journal.append(PACKETS, 4, 3)
        assert path.read_bytes() == whole


def test_a_damaged_segment_is_not_taken(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with Journal(out, "key") as journal:
        journal.append(PACKETS, 4, 0)
        path = journal.path
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    with Journal(out, "key") as journal:
        assert journal.progress == Progressed()


@pytest.mark.parametrize("content", [b"", b"something else", b"trt-ff video 1\n{", b"trt-ff video 1\n[]\n" + b"x" * 99])
def test_what_is_not_ours_is_begun_anew(content: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    (tmp_path / ".out.mp4.unfinished").write_bytes(content)
    with Journal(out, "key") as journal:
        assert journal.progress == Progressed() and journal.restarted == bool(content)
    with Journal(out, "other") as journal:
        assert journal.restarted
        journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_one_video(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.mp4", "key"), pytest.raises(StoreError, match="another process"):
        Journal(tmp_path / "out.mp4", "key")


@given(st.lists(st.integers(0, 10**9), unique=True, min_size=1, max_size=40), st.randoms())
def test_decoding_times_rise_and_none_is_late(times: list[int], random: object) -> None:
    times = sorted(times)
    for start in range(0, len(times), 4):  # encoders reorder a few pictures at a time
        group = times[start : start + 4]
        random.shuffle(group)  # type: ignore[attr-defined]
        times[start : start + 4] = group
    decoded = order_times(times)
    assert all(a < b for a, b in itertools.pairwise(decoded))
    assert all(decode <= show for decode, show in zip(decoded, times, strict=True))
    if times == sorted(times):
        assert decoded == times
    assert order_times([]) == []


def test_stages_overlap_and_keep_the_order() -> None:
    def slow(item: int) -> int:
        time.sleep(0.03)
        return item + 1

    started = time.monotonic()
    assert list(run_overlapped(range(20), [slow, slow, slow])) == list(range(3, 23))
    assert time.monotonic() - started < 20 * 3 * 0.03 * 0.9
    assert threading.active_count() < 20


def test_only_a_few_items_are_on_their_way() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = run_overlapped(items(), [lambda item: item, lambda item: item])
    next(results)
    time.sleep(0.3)
    assert len(read) <= 12
    results.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("swap-") for thread in threading.enumerate())


@pytest.mark.parametrize("where", ["items", "stage"])
def test_an_error_anywhere_comes_out(where: str) -> None:
    def items() -> Iterator[int]:
        yield 1
        if where == "items":
            raise KeyError("broken")

    def stage(item: int) -> int:
        if where == "stage":
            raise KeyError("broken")
        return item

    with pytest.raises(KeyError, match="broken"):
        list(run_overlapped(items(), [stage]))
