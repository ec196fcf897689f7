from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trt_facefusion.engine.store.lock import build_lock, try_lock
from trt_facefusion.errors import StoreError

HOLD = """
import sys
from pathlib import Path
from trt_facefusion.engine.store.lock import build_lock
with build_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_build_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "int8"
    with held_elsewhere(folder) as process:
        with pytest.raises(StoreError) as error, build_lock(folder, timeout_s=0):
            pass
        assert f"process {process.pid} on" in error.value.message
        with try_lock(folder) as free:
            assert not free


def test_a_second_build_waits_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    said: list[str] = []
    with held_elsewhere(folder) as process:

        def end_the_first(message: str) -> None:
            said.append(message)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

        with build_lock(folder, timeout_s=60, waiting=end_the_first):
            assert f"process {process.pid}" in said[0]
    assert len(said) == 1


def test_the_lock_of_a_killed_build_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    with held_elsewhere(folder) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with build_lock(folder, timeout_s=10):
            pass


def test_other_folders_are_free(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "int8"), build_lock(tmp_path / "fp16", timeout_s=0):
        pass


def test_the_holder_may_take_its_lock_again(tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    with build_lock(folder, timeout_s=0):
        with build_lock(folder, timeout_s=0):
            pass
        command = [sys.executable, "-c", HOLD.replace("Path(sys.argv[1])", "Path(sys.argv[1]), 0"), str(folder)]
        other = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert f"process {os.getpid()} on" in other.stderr
    assert not (tmp_path / ".holder-int8").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(StoreError) as error, build_lock(tmp_path / "engines" / "int8", timeout_s=0):
        pass
    assert "--output" in error.value.remedy
