"""What is decided of a candidate, and the file in which that survives."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_facefusion.errors import StoreError
from trt_facefusion.serving.engines import rollout_file as rollout_file_module
from trt_facefusion.serving.engines.budget import FaceComparison, RolloutBudget, average
from trt_facefusion.serving.engines.events import EventKind, ServingEvent
from trt_facefusion.serving.engines.rollout import (
    Phase,
    Rollout,
    RolloutObservations,
    RolloutPlan,
    advance,
    begin,
    decide,
    resume,
)
from trt_facefusion.serving.engines.rollout_file import RolloutFile
from trt_facefusion.serving.engines.rollout_keeper import RolloutKeeper
from trt_facefusion.serving.engines.shares import Schedule

KEY, LABELS = ("c" * 64, "b" * 64), ("swap/int8", "swap/fp16")
BUDGET = RolloutBudget(max_ssim_drop=0.02, max_faults=2, window=40, least_to_reject=10, least_to_promote=20)
GOOD, POOR, GROSS = FaceComparison(45.0, 0.995, 0.99), FaceComparison(35.0, 0.95, 0.97), FaceComparison(9.0, 0.3, 0.4)


def make_plan(*steps: float, comparisons: int = 0, seconds: float = 0.0, share: float = 0.05) -> RolloutPlan:
    return RolloutPlan(share, Schedule(steps, comparisons, seconds), BUDGET)


def see(*comparisons: FaceComparison, faults: int = 0) -> RolloutObservations:
    return RolloutObservations(comparisons, faces=len(comparisons) + faults, faults=faults)


def test_a_mean_beyond_the_budget_is_rolled_back_once_there_are_enough() -> None:
    rollout = advance(begin(KEY, LABELS, make_plan(), 0.0), see(*[POOR] * 9), 1.0)
    assert rollout.phase == Phase.RUNNING.value
    rollout = advance(rollout, see(POOR), 2.0)
    assert (rollout.phase, rollout.share) == (Phase.ROLLED_BACK.value, 0.0)
    assert "0.0500 over 10 comparisons" in rollout.reason and rollout.history[-1].when.startswith("1970-01-01T00:00:02")
    assert advance(rollout, see(*[GOOD] * 100), 3.0).phase == Phase.ROLLED_BACK.value


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (see(GROSS, GROSS, GROSS), "3 faults"),
        (see(GOOD, faults=3), "3 faults"),
        (see(*[FaceComparison(20.0, 0.99, 0.99)] * 10), "PSNR"),
        (see(*[FaceComparison(40.0, 0.99, 0.9)] * 10), "identity"),
    ],
)
def test_each_limit_rolls_back(seen: RolloutObservations, word: str) -> None:
    rollout = advance(begin(KEY, LABELS, make_plan(), 0.0), seen, 1.0)
    assert rollout.phase == Phase.ROLLED_BACK.value and word in rollout.reason


def test_faults_that_lie_far_apart_are_forgiven() -> None:
    rollout = begin(KEY, LABELS, make_plan(), 0.0)
    for _ in range(10):
        rollout = advance(rollout, see(faults=1), 1.0)
        rollout = advance(rollout, see(*[GOOD] * 30), 1.0)
    assert rollout.phase == Phase.RUNNING.value and rollout.faults == 10 and len(rollout.fault_marks) <= 2


def test_a_schedule_by_comparisons_ends_in_the_promotion() -> None:
    rollout = begin(KEY, LABELS, make_plan(0.25, 1.0, comparisons=50), 0.0)
    shares = []
    for _ in range(100):
        rollout = advance(rollout, see(GOOD), 1.0)
        shares.append(rollout.share)
    assert shares[48:50] == [0.05, 0.25] and shares[98:] == [0.25, 1.0]
    assert rollout.phase == Phase.PROMOTED.value


def test_a_schedule_by_time_waits_for_comparisons_too() -> None:
    rollout = begin(KEY, LABELS, make_plan(0.25, seconds=60.0), 0.0)
    assert advance(rollout, RolloutObservations(), 1000.0).share == 0.05
    rollout = advance(rollout, see(*[GOOD] * 20), 30.0)
    assert rollout.share == 0.05
    assert advance(rollout, RolloutObservations(), 60.0).share == 0.25


def test_a_decision_stands_when_the_service_starts_again_and_changed_shares_begin_anew() -> None:
    first = begin(KEY, LABELS, make_plan(0.5, comparisons=20), 0.0)
    stepped = advance(first, see(*[GOOD] * 20), 1.0)
    assert resume(stepped, stepped.plan, 2.0).share == 0.5
    assert resume(stepped, make_plan(share=0.1), 2.0).share == 0.1
    back = decide(stepped, Phase.ROLLED_BACK, "no", 2.0)
    assert resume(back, make_plan(share=0.1), 3.0).share == 0.0


COMPARISONS = st.builds(FaceComparison, st.floats(0, 100), st.floats(-1, 1), st.floats(-1, 1))
SEEN = st.builds(
    RolloutObservations,
    st.lists(COMPARISONS | st.just(GOOD), max_size=12).map(tuple),
    st.integers(0, 12),
    st.integers(0, 1),
)


@given(st.lists(SEEN, max_size=25), st.integers(1, 60))
def test_whatever_is_seen_the_rollout_is_one_that_can_be(batches: list[RolloutObservations], comparisons: int) -> None:
    rollout = begin(KEY, LABELS, make_plan(0.25, 1.0, comparisons=comparisons), 0.0)
    for number, seen in enumerate(batches):
        before, rollout = rollout, advance(rollout, seen, float(number))
        assert len(rollout.window) <= BUDGET.window and len(rollout.fault_marks) <= BUDGET.window
        assert rollout.share in {0.0, 0.05, 0.25, 1.0}
        if before.phase != Phase.RUNNING.value:
            assert (rollout.phase, rollout.share) == (before.phase, before.share)
        elif rollout.phase == Phase.RUNNING.value:
            assert BUDGET.find_breach(rollout.window, len(rollout.fault_marks)) is None
            assert rollout.share >= before.share
        elif rollout.phase == Phase.ROLLED_BACK.value:
            assert BUDGET.find_breach(rollout.window, len(rollout.fault_marks)) == rollout.reason
        rollout_file_module._check(rollout)
    assert rollout.comparisons == sum(len(seen.comparisons) for seen in batches)


@given(st.lists(SEEN, max_size=10))
@settings(max_examples=25)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, batches: list[RolloutObservations]
) -> None:
    file = RolloutFile(tmp_path_factory.mktemp("rollout") / "canary.json")
    rollout = begin(KEY, LABELS, make_plan(0.25, comparisons=5), 1e9)
    for seen in batches:
        rollout = advance(rollout, seen, 1e9)
    written = file.update(lambda stored: rollout)
    assert file.read() == written and dataclasses.replace(rollout, revision=1) == written


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    rollout = advance(begin(KEY, LABELS, make_plan(0.25, comparisons=5), 0.0), see(GOOD, faults=1), 1.0)
    return json.loads(json.dumps(dataclasses.asdict(rollout)))


@given(place=st.integers(0, 30), junk=st.sampled_from([None, -1, 10**30, "x", [], {}, [[]], 1.5, True, "\ud800"]))
def test_a_file_that_was_tampered_with_is_refused_or_is_a_rollout(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object], place: int, junk: object
) -> None:
    changed = dict(document)
    changed[list(changed)[place % len(changed)]] = junk
    path = tmp_path_factory.mktemp("rollout") / "canary.json"
    path.write_text(json.dumps(changed))
    try:
        assert isinstance(RolloutFile(path).read(), Rollout)
    except StoreError as error:
        assert "canary.json" in error.message and "begins anew" in error.remedy


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"schema": 2}', b"[" * 5000, b" " * (5 << 20)])
def test_what_is_no_rollout_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "canary.json"
    path.write_bytes(text)
    with pytest.raises(StoreError):
        RolloutKeeper(RolloutFile(path), KEY, LABELS, make_plan())
    assert path.read_bytes() == text, "what a person may want to look at stays"


def make_keeper(path: Path, events: list[ServingEvent] | None = None, plan: RolloutPlan | None = None) -> RolloutKeeper:
    taker = (lambda event: None) if events is None else events.append
    return RolloutKeeper(RolloutFile(path), KEY, LABELS, plan or make_plan(), taker)


def test_a_candidate_that_was_built_anew_begins_anew(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path / "canary.json")
    keeper.observe(see(GROSS, GROSS, GROSS))
    keeper.sync()
    assert make_keeper(tmp_path / "canary.json").rollout.phase == Phase.ROLLED_BACK.value
    anew = RolloutKeeper(RolloutFile(tmp_path / "canary.json"), ("d" * 64, KEY[1]), LABELS, make_plan())
    assert anew.rollout.phase == Phase.RUNNING.value and anew.rollout.comparisons == 0


def test_several_services_add_to_one_file_and_lose_nothing(tmp_path: Path) -> None:
    keepers = [make_keeper(tmp_path / "canary.json") for _ in range(4)]

    def work(keeper: RolloutKeeper) -> None:
        for _ in range(15):
            keeper.observe(see(GOOD, GOOD))
            keeper.sync()

    threads = [threading.Thread(target=work, args=(keeper,)) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for keeper in keepers:
        keeper.sync()
    stored = RolloutFile(tmp_path / "canary.json").read()
    assert stored is not None and stored.comparisons == 4 * 15 * 2 == keepers[0].rollout.comparisons


def test_what_one_service_rolls_back_no_other_shows(tmp_path: Path) -> None:
    events: list[ServingEvent] = []
    one, other = make_keeper(tmp_path / "canary.json"), make_keeper(tmp_path / "canary.json", events)
    other.observe(see(GOOD))
    one.observe(see(GROSS, GROSS, GROSS))
    assert one.rollout.phase == Phase.ROLLED_BACK.value, "in memory at once"
    one.sync()
    other.sync()
    assert other.rollout.phase == Phase.ROLLED_BACK.value and events[-1].kind is EventKind.ROLLED_BACK
    assert other.rollout.comparisons == 4


def test_two_that_decide_at_once_end_rolled_back(tmp_path: Path) -> None:
    one, other = make_keeper(tmp_path / "canary.json"), make_keeper(tmp_path / "canary.json")
    one.observe(see(*[GOOD] * 30))
    one.sync()
    other.observe(see(*[POOR] * 12))
    assert other.rollout.phase == Phase.ROLLED_BACK.value
    other.sync()
    one.sync()
    assert one.rollout.phase == other.rollout.phase == Phase.ROLLED_BACK.value


def test_where_nothing_can_be_written_it_goes_on_in_memory_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[ServingEvent] = []
    keeper = make_keeper(tmp_path / "canary.json", events)

    def refuse(*arguments: object, **options: object) -> None:
        raise StoreError("No space left on device.", "Free some disk space.")

    with monkeypatch.context() as patch:
        patch.setattr(rollout_file_module, "write_atomic", refuse)
        for _ in range(100):
            keeper.observe(see(GOOD))
            keeper.sync()
        assert len(keeper._pending.comparisons) <= BUDGET.window
        keeper.observe(see(GROSS, GROSS, GROSS))
        keeper.sync()
        assert keeper.rollout.phase == Phase.ROLLED_BACK.value
        assert [event.kind for event in events].count(EventKind.STATE_UNWRITTEN) == 1
    keeper.sync()
    stored = RolloutFile(tmp_path / "canary.json").read()
    assert stored is not None and stored.phase == Phase.ROLLED_BACK.value and stored.comparisons == 103


@pytest.mark.parametrize("content", [b"{", None])
def test_a_file_that_is_damaged_or_gone_is_written_again(tmp_path: Path, content: bytes | None) -> None:
    keeper = make_keeper(tmp_path / "canary.json")
    keeper.observe(see(GROSS, GROSS, GROSS))
    keeper.sync()
    if content is None:
        (tmp_path / "canary.json").unlink()
    else:
        (tmp_path / "canary.json").write_bytes(content)
    keeper.sync()
    stored = RolloutFile(tmp_path / "canary.json").read()
    assert stored is not None and stored.phase == Phase.ROLLED_BACK.value


def test_another_rollout_in_the_file_is_left_alone(tmp_path: Path) -> None:
    events: list[ServingEvent] = []
    keeper = make_keeper(tmp_path / "canary.json", events)
    RolloutKeeper(RolloutFile(tmp_path / "canary.json"), ("d" * 64, KEY[1]), LABELS, make_plan())
    keeper.observe(see(GOOD))
    keeper.sync()
    keeper.observe(see(GOOD))
    keeper.sync()
    stored = RolloutFile(tmp_path / "canary.json").read()
    assert stored is not None and stored.candidate == "d" * 64
    assert [event.kind for event in events].count(EventKind.STATE_UNWRITTEN) == 1
    assert keeper.rollout.comparisons == 2


_COUNT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_rollout import GOOD, make_keeper, see
keeper = make_keeper(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    keeper.observe(see(GOOD))
    keeper.sync()
"""


def test_kill_9_in_the_middle_keeps_the_state(tmp_path: Path) -> None:
    path, seen = tmp_path / "canary.json", 0
    for _ in range(2):
        words = [sys.executable, "-c", _COUNT, str(path), str(Path(__file__).parent)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline().strip() == b"ready"
        time.sleep(0.7)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stored = RolloutFile(path).read()
        assert stored is not None and stored.comparisons > seen and stored.phase == Phase.RUNNING.value
        seen = stored.comparisons
    assert make_keeper(path).rollout.comparisons == seen


def test_the_mean_is_the_mean() -> None:
    assert average([GOOD, POOR]) == FaceComparison(40.0, pytest.approx(0.9725), pytest.approx(0.98))
