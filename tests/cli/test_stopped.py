"""Builds that are stopped: by Ctrl-C at every stage, by kill -9 at any moment, and two that meet."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import Outcome, Workplace

from trt_facefusion.build.result import BuildResult
from trt_facefusion.build.run import build as real_build
from trt_facefusion.cli import build as build_command
from trt_facefusion.cli import console
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import Store

Command = Callable[[list[str]], Outcome]
Start = Callable[..., "subprocess.Popen[str]"]

STAGES = ("model", "calibration faces", "calibrate", "rules", "search", "verify int8", "judge int8", "compile", "store")


def leftovers(place: Workplace) -> list[str]:
    """What was being written: everything hidden but the locks."""
    return [name for name in place.left_behind() if Path(name).name.startswith(".")]


def read_until(process: subprocess.Popen[str], text: str) -> bool:
    """Read stderr up to a line with ``text``; gives whether one came."""
    assert process.stderr is not None
    return any(text in line for line in process.stderr)


@pytest.mark.parametrize(
    ("stage", "backend"),
    [*((s, "onnxruntime") for s in STAGES), pytest.param("compile", "tensorrt-rtx", marks=pytest.mark.slow)],
)
def test_ctrl_c_at_every_stage(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch, stage: str, backend: str
) -> None:
    if backend == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx")

    def interrupted(settings: object, progress: Callable[[str, int, int], None], note: object) -> BuildResult:
        def report(name: str, done: int, total: int) -> None:
            progress(name, done, total)
            if name == stage:
                signal.raise_signal(signal.SIGINT)

        return real_build(settings, report, note)  # type: ignore[arg-type]

    monkeypatch.setattr(build_command, "build", interrupted)
    outcome = command([*place.options(rule="auto", backend=backend), "--json"])
    assert outcome.code == 130, outcome
    assert outcome.json["error"]["kind"] == "interrupted"
    assert "error: interrupted: nothing half-written is left" in outcome.err
    assert "what to do: run the same command again" in outcome.err
    assert "Traceback" not in outcome.err
    assert not Store(place.output).list() and leftovers(place) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("line", "signum"),
    [
        ("reading the model", signal.SIGINT),
        ("calibration faces", signal.SIGTERM),
        pytest.param("judge int8", signal.SIGINT, marks=pytest.mark.slow),
        ("judge int8", signal.SIGHUP),
    ],
)
def test_a_signal_from_outside(start: Start, place: Workplace, line: str, signum: signal.Signals) -> None:
    process = start(place.options())
    assert read_until(process, line)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (129 if signum == signal.SIGHUP else 130) and out == ""
    assert err.splitlines()[-2].startswith("error: interrupted") and "Traceback" not in err
    assert not Store(place.output).list() and leftovers(place) == []


def test_ctrl_c_while_the_program_is_still_loading(start: Start) -> None:
    hook = "import builtins; load = builtins.__import__; builtins.__import__ = lambda name, *rest, **named: "
    hook += "exec('raise KeyboardInterrupt') if name == 'trt_facefusion.cli.app' else load(name, *rest, **named)"
    process = start(["presets", "--json"], hook)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["error"]["kind"] == "interrupted" and "Traceback" not in err


@pytest.mark.slow
def test_kill_9_at_random_moments_never_yields_a_wrong_engine(start: Start, place: Workplace) -> None:
    rng = random.Random(5)
    moments = ["reading the model", "calibrating", "judge int8", "building the engine", "storing"]
    for moment in moments:
        process = start(place.options())
        if not read_until(process, moment):
            break  # an earlier build got further than it was meant to
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.communicate()
        for folder, found in Store(place.output).list():
            assert isinstance(found, Manifest), found
            Store(place.output).load(folder)
    process = start([*place.options(), "--json"])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["engines"][0]["passed"]
    assert [name for name in leftovers(place) if name.startswith("out")] == []


def test_what_a_kill_during_storing_leaves_is_no_engine_and_is_swept(
    start: Start, command: Command, place: Workplace
) -> None:
    die = "import os, trt_facefusion.engine.store.store as s; write = s.write_synced; s.write_synced = "
    die += "lambda path, data: os.kill(os.getpid(), 9) if 'manifest' in path.name else write(path, data)"
    process = start(place.options(), die)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert any(".tmp-" in name for name in place.left_behind())
    assert command(["engines", "--output", str(place.output), "--json"]).json == {"schema": 1, "engines": []}
    assert command([*place.options(), "--json"]).json["engines"][0]["up_to_date"] is False
    assert leftovers(place) == []


def test_of_two_builds_at_once_the_second_waits_and_is_up_to_date(start: Start, place: Workplace) -> None:
    slow = "import time, trt_facefusion.engine.backends.onnxruntime as o; real = o.OnnxRuntime.build; "
    slow += "o.OnnxRuntime.build = lambda *given: (time.sleep(2), real(*given))[1]"
    first = start([*place.options(), "--json"], slow)
    assert read_until(first, "reading the model")  # it has the lock
    second = start([*place.options(), "--json"])
    outputs = [process.communicate(timeout=120) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    engines = [json.loads(out)["engines"][0] for out, _ in outputs]
    assert [engine["up_to_date"] for engine in engines] == [False, True]
    assert f"waiting for process {first.pid} on " in outputs[1][1]


def test_an_interrupt_in_the_progress_bar_leaves_the_terminal_usable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), console.progress_bar() as (progress, _):
        progress("calibrate", 1, 2)
        raise KeyboardInterrupt
    assert "calibrating" in capsys.readouterr().err


def test_a_terminal_that_goes_away_ends_a_build_cleanly(start: Start, place: Workplace) -> None:
    ours, theirs = os.openpty()
    process = start(place.options(), f"import os; os.dup2({theirs}, 1); os.dup2({theirs}, 2)", pass_fds=(theirs,))
    os.close(theirs)
    shown = b""
    while b"judge int8" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)  # as a terminal's window that is closed
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
    assert not Store(place.output).list() and leftovers(place) == []


def test_nohup_is_heeded(start: Start, place: Workplace) -> None:
    process = start(place.options(), "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    assert read_until(process, "calibration faces")
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
