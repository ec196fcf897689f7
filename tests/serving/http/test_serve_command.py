"""`trt-ff serve` as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pixelwise import IMAGE
from running import FORM, Setting, in_threads, make_form

from trt_facefusion.cli.main import run
from trt_facefusion.errors import BackendUnavailableError, BadInputError

_MAIN = "import sys; sys.argv[0] = 'trt-ff'; from trt_facefusion.cli.main import main; main()"


def words(setting: Setting, *more: str) -> list[str]:
    return ["serve", "--engine", str(setting.net), "--input", IMAGE, "--port", "0", *more]


@contextmanager
def start(setting: Setting, *more: str, log: int = subprocess.PIPE) -> Iterator[Any]:
    """The command as a process, and killed at the end."""
    command = [sys.executable, "-c", _MAIN, *words(setting, *more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def read_port(process: Any) -> int:
    """The port that the command says it listens on, when it is ready."""
    return int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])  # type: ignore[index]


@pytest.fixture
def process(inverting: Setting) -> Iterator[Any]:
    with start(inverting) as started:
        yield started


def ask(port: int, photo: bytes) -> int | str:
    """The status of a swap, or how it failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/swap", make_form([("target", photo)]), {"Content-Type": FORM})
        return connection.getresponse().status
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, http.client.RemoteDisconnected):
        return "cut off"
    finally:
        connection.close()


def test_sigterm_ends_it_with_0_when_everything_accepted_is_answered(process: Any, photos: list[bytes]) -> None:
    port = read_port(process)
    assert ask(port, photos[0]) == 200
    ended = threading.Event()
    statuses: list[int | str] = []

    def ask_until_the_end(photo: bytes) -> None:
        while not ended.is_set():
            statuses.append(ask(port, photo))

    def end() -> None:
        while statuses.count(200) < 8:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while statuses.count("refused") + statuses.count(503) < 4:
            time.sleep(0.01)
        ended.set()

    in_threads([*(lambda photo=photo: ask_until_the_end(photo) for photo in photos[:4]), end])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out == ""
    assert set(statuses) <= {200, 503, "refused"}
    lines = [json.loads(line) for line in err.splitlines()]
    assert any(line["event"] == "draining" for line in lines)
    served = [line["status"] for line in lines if line["event"] == "request" and line["route"] == "/v1/swap"]
    assert served.count(200) == statuses.count(200) + 1 and set(served) <= {200, 503}


@pytest.mark.slow
def test_killed_under_load_and_started_again_it_serves_as_before(inverting: Setting, photos: list[bytes]) -> None:
    statuses: list[int | str] = []
    with start(inverting, log=subprocess.DEVNULL) as first:
        port = read_port(first)
        assert ask(port, photos[0]) == 200

        def ask_until_it_is_gone(photo: bytes) -> None:
            while "refused" not in statuses[-4:]:
                statuses.append(ask(port, photo))

        def kill() -> None:
            while statuses.count(200) < 8:
                time.sleep(0.01)
            first.kill()

        in_threads([*(lambda photo=photo: ask_until_it_is_gone(photo) for photo in photos[:4]), kill])
    assert set(statuses) <= {200, "cut off", "refused"}
    with start(inverting, "--port", str(port), log=subprocess.DEVNULL) as second:
        assert read_port(second) == port
        assert [ask(port, photo) for photo in photos] == [200] * len(photos)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_flat_over_thousands_of_swaps(inverting: Setting, photos: list[bytes]) -> None:
    count, clients = int(os.environ.get("TRT_FF_SWAPS", "2000")), 8

    def ask_often(port: int, swaps: int) -> list[int | str]:
        each = range(swaps // clients)
        answers: list[int | str] = []
        work = [
            lambda start=start: answers.extend(ask(port, photos[(start + i) % 16]) for i in each) for start in range(8)
        ]
        in_threads(work, patience_s=1500)
        return answers

    with start(inverting, log=subprocess.DEVNULL) as process:
        port = read_port(process)
        assert set(ask_often(port, 400)) == {200}
        before = read_rss_mib(process.pid)
        assert set(ask_often(port, count)) == {200}
        after = read_rss_mib(process.pid)
    sys.stdout.write(f"{count} swaps by {clients} clients: {before:.1f} MiB before, {after:.1f} MiB after\n")
    assert after < before + 16


def read_rss_mib(pid: int) -> float:
    """Memory that the process has in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def test_an_address_that_is_taken_is_said(inverting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run([*words(inverting), "--port", port]) == BadInputError.exit_code
    assert port in capsys.readouterr().err


def test_what_cannot_be_served_is_said(
    inverting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["serve", "--engine", str(tmp_path / "none"), "--port", "0"]) == BadInputError.exit_code
    assert "there is nothing" in capsys.readouterr().err
    assert run(["serve", "--engine", str(tmp_path / "none"), "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "no token is asked for" in capsys.readouterr().err
    (tmp_path / "token").write_text("short")
    assert run(words(inverting, "--token-file", str(tmp_path / "token"))) == BadInputError.exit_code
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(words(inverting)) == BackendUnavailableError.exit_code
    assert "pip install 'fastapi" in capsys.readouterr().err
