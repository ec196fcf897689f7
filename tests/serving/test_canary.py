"""A candidate for a share of requests: compared, rolled back or promoted, and counted right."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from tricks import Saboteur, make_faces, spoil_scales, wait_until

from trt_facefusion.cli.canary_options import CanaryOptions, open_pool
from trt_facefusion.cli.main import run
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.serving.engines.budget import RolloutBudget, average, compare_pictures
from trt_facefusion.serving.engines.canary import CanaryPool
from trt_facefusion.serving.engines.events import EventKind, ServingEvent
from trt_facefusion.serving.engines.pool import EnginePool
from trt_facefusion.serving.engines.rollout import Phase
from trt_facefusion.serving.engines.shares import takes_part
from trt_facefusion.serving.seam import ServedFace
from trt_facefusion.swap.engines import ChainOptions, EngineChain
from trt_facefusion.types import Precision

OpenCanary = Callable[..., CanaryPool]
WINDOW = 60


@pytest.fixture
def open_canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenCanary]:
    """Opens the pool that the options of the service ask for; decides after fewer comparisons than usual."""
    monkeypatch.setattr(RolloutBudget, "__init__", _decide_sooner(RolloutBudget.__init__))
    opened: list[Any] = []

    def make(*paths: Path, on_event: Any = lambda event: None, **options: Any) -> Any:
        asked = {"canary": "int8=25%", "shadow": "50%", "canary_window": WINDOW, **options}
        chain = ChainOptions(threads=1)
        opened.append(open_pool(paths, CanaryOptions(**asked), chain=chain, on_event=on_event))
        return opened[-1]

    yield make
    for pool in opened:
        pool.close()


def _decide_sooner(init: Any) -> Any:
    def make(self: RolloutBudget, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **{"least_to_reject": 10, "least_to_promote": 15, **options})

    return make


def serve(pool: CanaryPool, requests: range) -> dict[str, tuple[str, str]]:
    """Precision and role by request, four at a time, each compared before the next."""
    seen = {}
    for first in range(requests.start, requests.stop, 4):
        names = [f"r{number}" for number in range(first, min(first + 4, requests.stop))]
        answers = pool.serve(make_faces(len(names), first), names)
        assert all(isinstance(answer, ServedFace) for answer in answers)
        seen |= {name: (a.precision, a.role) for name, a in zip(names, answers, strict=True)}
        wait_until(lambda: pool.is_idle)
    return seen


def read(pool: Any, name: str, **labels: str) -> float:
    readings = [r for r in pool.read_metrics() if r.name == name and labels.items() <= dict(r.labels).items()]
    return sum(reading.value for reading in readings)


def find(store: Path, precision: str) -> Path:
    (folder,) = store.glob(f"{precision}-*")
    return folder


def test_the_share_of_requests_sees_it_each_wholly_and_again(
    built: Path, tmp_path: Path, open_canary: OpenCanary
) -> None:
    pool = open_canary(built, shadow="0%", canary_state=tmp_path)
    requests = [f"r{number // 2}" for number in range(80)]
    roles = [answer.role for answer in pool.serve(make_faces(80), requests)]
    assert roles[::2] == roles[1::2] == [a.role for a in pool.serve(make_faces(40), requests[::2])]
    salt = f"canary {pool.rollout.candidate}"
    assert roles == ["candidate" if takes_part(request, salt, 0.25) else "baseline" for request in requests]
    assert 0 < roles.count("candidate") < 80
    assert [(s.precision, s.role) for s in pool.describe()] == [
        ("fp16", "baseline"),
        ("fp32", "fallback"),
        ("int8", "candidate"),
    ]


def test_a_bad_int8_engine_is_rolled_back_within_the_window(store: Path, open_canary: OpenCanary) -> None:
    spoil_scales(find(store, "int8"), 6.0)
    events: list[ServingEvent] = []
    pool = open_canary(store, on_event=events.append)
    salt = f"canary {pool.rollout.candidate}"
    seen = serve(pool, range(160))
    assert pool.rollout.phase == Phase.ROLLED_BACK.value and "SSIM drop" in pool.rollout.reason
    assert pool.rollout.comparisons <= WINDOW and events[-1].kind is EventKind.ROLLED_BACK
    saw = {request for request, answer in seen.items() if answer == ("int8", "candidate")}
    assert 0 < len(saw) <= 0.25 * 160 and all(takes_part(request, salt, 0.25) for request in saw)
    assert set(serve(pool, range(160, 200)).values()) == {("fp16", "baseline")}
    (candidate,) = [state for state in pool.describe() if state.role == "candidate"]
    assert candidate.state == "out" and "rolled back" in (candidate.reason or "")
    assert read(pool, "canary_phase", phase="rolled_back") == 1 and read(pool, "canary_share") == 0


def test_it_stays_rolled_back_after_a_restart_and_a_better_build_begins_anew(
    store: Path, built: Path, open_canary: OpenCanary
) -> None:
    spoil_scales(find(store, "int8"), 6.0)
    pool = open_canary(store)
    serve(pool, range(60))
    pool.close()
    again = open_canary(store)
    assert again.rollout.phase == Phase.ROLLED_BACK.value
    assert set(serve(again, range(20)).values()) == {("fp16", "baseline")}
    again.close()
    shutil.rmtree(find(store, "int8"))
    shutil.copytree(find(built, "int8"), store / find(built, "int8").name)
    anew = open_canary(store)
    assert anew.rollout.phase == Phase.RUNNING.value and "candidate" in {
        role for _, role in serve(anew, range(20)).values()
    }


def test_a_good_engine_is_promoted_by_schedule_and_is_the_baseline_then(store: Path, open_canary: OpenCanary) -> None:
    events: list[ServingEvent] = []
    pool = open_canary(store, promote="50%,100%:15", shadow="100%", on_event=events.append)
    serve(pool, range(40))
    assert pool.rollout.phase == Phase.PROMOTED.value
    kinds = [event.kind for event in events]
    assert kinds == [EventKind.ROLLOUT_BEGUN, EventKind.STEP_TAKEN, EventKind.PROMOTED]
    assert set(serve(pool, range(40, 60)).values()) == {("int8", "baseline")}
    assert [(s.precision, s.role) for s in pool.describe()] == [
        ("int8", "baseline"),
        ("fp16", "fallback"),
        ("fp32", "fallback"),
    ]
    pool.close()
    assert set(serve(open_canary(store, promote="50%,100%:15"), range(8)).values()) == {("int8", "baseline")}


def test_the_numbers_are_those_of_an_offline_recount(built: Path, tmp_path: Path, open_canary: OpenCanary) -> None:
    pool = open_canary(built, canary_state=tmp_path)
    seen, salt, names = serve(pool, range(60)), pool.rollout.candidate, [f"r{number}" for number in range(60)]
    candidates = [name for name in names if takes_part(name, f"canary {salt}", 0.25)]
    assert Counter(seen.values()) == {
        ("int8", "candidate"): len(candidates),
        ("fp16", "baseline"): 60 - len(candidates),
    }
    assert read(pool, "canary_faces_total", role="candidate") == len(candidates)
    assert read(pool, "engine_faces_total", precision="fp16", role="baseline") == 60 - len(candidates)
    compared = [number for number in range(60) if takes_part(names[number], f"shadow {salt}", 0.5)]
    assert read(pool, "canary_comparisons_total") == len(compared) == read(pool, "canary_window_comparisons")
    int8, fp16 = (
        EngineChain(built, precision, options=ChainOptions(threads=1)) for precision in (Precision.INT8, Precision.FP16)
    )
    rows = []
    for number in compared:
        (face,) = make_faces(1, number)
        (a,), (b,) = fp16.render([face]), int8.render([face])
        rows.append(compare_pictures(a.picture, b.picture, "arcface_128", tiny.Glance()))
    means = average(rows)
    for name in ("psnr_db", "ssim", "identity"):
        assert read(pool, f"canary_window_{name}") == pytest.approx(getattr(means, name), rel=1e-5)
    assert read(pool, "canary_faults_total") == read(pool, "canary_dropped_total") == 0
    asked = len(candidates) + sum(names[number] not in candidates for number in compared)
    assert pool.rollout.faces == asked


@pytest.mark.parametrize("trick", ["give_nan", pytest.param("fail", marks=pytest.mark.slow)])
def test_a_candidate_that_breaks_faces_is_rolled_back_and_nobody_sees_them(
    built: Path, tmp_path: Path, open_canary: OpenCanary, saboteur: Saboteur, trick: str
) -> None:
    pool = open_canary(built, canary="int8=50%", shadow="0%", canary_state=tmp_path)
    saboteur.tricks["int8"] = getattr(saboteur, trick)
    seen = serve(pool, range(24))
    assert not any(precision == "int8" for precision, _ in seen.values())
    assert ("fp16", "fallback") in seen.values()
    wait_until(lambda: pool.rollout.phase == Phase.ROLLED_BACK.value, 40)
    assert "3 faults" in pool.rollout.reason or "faults" in pool.rollout.reason
    assert set(serve(pool, range(24, 40)).values()) == {("fp16", "baseline")}


def test_comparisons_never_hold_up_an_answer_and_what_is_too_much_is_dropped(
    built: Path, tmp_path: Path, open_canary: OpenCanary, saboteur: Saboteur
) -> None:
    pool = open_canary(built, canary="int8=0%", shadow="100%", canary_state=tmp_path)
    saboteur.tricks["int8"] = lambda rendered: saboteur.released.wait(30)
    started = time.monotonic()
    roles = {pool.serve(make_faces(1), [f"r{number}"])[0].role for number in range(60)}
    assert time.monotonic() - started < 25 and roles == {"baseline"}, "a share of 0 % shows it to nobody"
    assert read(pool, "canary_dropped_total") >= 60 - 32 - 2
    saboteur.released.set()
    wait_until(lambda: pool.is_idle)
    assert read(pool, "canary_comparisons_total") == 60 - read(pool, "canary_dropped_total")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def execute(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["canary", *map(str, words)])
        return code, *capsys.readouterr()

    return execute


def test_a_person_rolls_back_and_promotes_while_the_service_runs(
    store: Path, open_canary: OpenCanary, command: Callable[..., tuple[int, str, str]]
) -> None:
    pool = open_canary(store)
    serve(pool, range(20))
    wait_until(lambda: "identity cosine" in command("status", "--state", store)[1])
    code, out, _ = command("status", "--state", store)
    assert code == 0 and "running, 25% of requests" in out
    code, out, _ = command("rollback", "--state", store, "--reason", "users complain")
    assert code == 0 and "rolled back" in out
    wait_until(lambda: pool.rollout.phase == Phase.ROLLED_BACK.value)
    assert set(serve(pool, range(20, 40)).values()) == {("fp16", "baseline")}
    code, out, _ = command("status", "--state", store / "canary.json", "--json")
    document = json.loads(out)
    assert code == 3 and document["phase"] == "rolled_back" and document["reason"] == "users complain"
    assert document["window"]["comparisons"] == pool.rollout.comparisons > 0
    code, _, err = command("promote", "--state", store)
    assert code == 3 and "users complain" in err and "--force" in err
    assert command("promote", "--state", store, "--force")[0] == 0
    wait_until(lambda: pool.rollout.phase == Phase.PROMOTED.value)
    assert set(serve(pool, range(40, 48)).values()) == {("int8", "baseline")}
    assert command("promote", "--state", store)[1].strip().endswith("already promoted")


def test_what_the_command_cannot_do_is_said(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    for words in (["status"], ["promote"], ["rollback"]):
        code, _, err = command(*words, "--state", tmp_path)
        assert code == BadInputError.exit_code and "holds no rollout" in err
    (tmp_path / "canary.json").write_text("{")
    code, out, _ = command("rollback", "--state", tmp_path, "--json")
    assert code == StoreError.exit_code and "damaged" in json.loads(out)["error"]["message"]


def test_what_makes_no_rollout_is_refused(built: Path, tmp_path: Path, open_canary: OpenCanary) -> None:
    for paths, options, word in (
        ([find(built, "int8")], {}, "only engine"),
        ([find(built, "fp32")], {}, "0 engines of that precision"),
        ([built], {"canary": "nowhere=5%"}, "nowhere"),
        ([built], {"canary": None, "promote": "50%:5"}, "none is named"),
        ([built], {"canary_max_faults": WINDOW}, "as many faults"),
    ):
        with pytest.raises(BadInputError, match=word):
            open_canary(*paths, canary_state=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_candidate_by_its_folder_and_a_service_without_one(
    store: Path, tmp_path: Path, open_canary: OpenCanary
) -> None:
    candidate = shutil.copytree(find(store, "int8"), tmp_path / "new" / "tiny" / find(store, "int8").name)
    spoil_scales(candidate, 1.1)
    pool = open_canary(store, canary=f"{candidate}=100%", canary_state=tmp_path / "state.json")
    assert [(s.precision, s.role) for s in pool.describe()] == [
        ("int8", "baseline"),
        ("fp16", "fallback"),
        ("fp32", "fallback"),
        ("int8", "candidate"),
    ]
    assert set(serve(pool, range(4)).values()) == {("int8", "candidate")}
    labels = [state.engine for state in pool.describe()]
    assert len(set(labels)) == len(labels), "two engines of one name are told apart"
    assert (tmp_path / "state.json").is_file()
    assert isinstance(open_canary(store, canary=None), EnginePool)


def test_the_baseline_may_be_named(built: Path, tmp_path: Path) -> None:
    fp32 = Precision.FP32
    pool = open_pool([built], CanaryOptions(), precision=fp32)
    assert [state.precision for state in pool.describe()] == ["fp32"]
    pool.close()
    canary = open_pool([built], CanaryOptions(canary="int8=5%", canary_state=tmp_path), precision=fp32)
    assert [(s.precision, s.role) for s in canary.describe()] == [("fp32", "baseline"), ("int8", "candidate")]
    canary.close()
    with pytest.raises(BadInputError, match="fp32 or safer"):
        open_pool([find(built, "int8")], CanaryOptions(), precision=fp32)
