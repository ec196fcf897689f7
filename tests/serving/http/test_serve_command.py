"""`trt-ff serve` as a process."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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


@pytest.fixture
def process(inverting: Setting) -> Iterator[Any]:
    started = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *words(inverting)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


def ask(port: int, photo: bytes) -> int | str:
    """The status of a swap, or how it failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/swap", make_form([("target", photo)]), {"Content-Type": FORM})
        return connection.getresponse().status
    except ConnectionRefusedError:
        return "refused"
    finally:
        connection.close()


def test_sigterm_ends_it_with_0_when_everything_accepted_is_answered(process: Any, photos: list[bytes]) -> None:
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])  # type: ignore[index]
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
