"""Where stdout, stderr or the disk take nothing more: the true cause, its exit code, no traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manifests import FILES, manifest
from workplace import Workplace

from trt_facefusion.cli import app, console
from trt_facefusion.cli.main import run
from trt_facefusion.engine.store.store import Store

CODE = "import sys; sys.argv[0] = 'trt-ff'; from trt_facefusion.cli.main import main; main()"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("streams")
    Store(root).save(manifest(), FILES)
    return [sys.executable, "-c", CODE, "engines", "--output", str(root)]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_the_command_quietly(engines: list[str], more: list[str]) -> None:
    process = subprocess.Popen([*engines, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141


@pytest.mark.parametrize("words", [["build", "--help"], ["--help"], ["presets", "--syntax"], []])
def test_a_reader_that_goes_away_from_help_ends_it_quietly(words: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_under_stdout_is_told(engines: list[str], more: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*engines, *more], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
        assert done.returncode == 6
        assert "the output cannot be written: No space left on device" in done.stderr and "bug" not in done.stderr
        for stdout in (full, subprocess.PIPE):  # the messages have no place either
            done = subprocess.run([*engines, "--nonsense"], stdout=stdout, stderr=full, timeout=60, check=False)
            assert done.returncode == 2


def test_closed_streams_are_no_crash(engines: list[str]) -> None:
    for closing in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closing}', "sh", *engines], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes every command raise what it is given."""

    def prepare(error: BaseException) -> None:
        def broken(arguments: list[str], standalone_mode: bool) -> int:
            raise error

        monkeypatch.setattr(app, "make_app", lambda words: broken)

    return prepare


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 6, "TMPDIR"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), 6, "TMPDIR"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 6, "File name too long: xxx"),
        (PermissionError(errno.EACCES, "Permission denied", "/locked"), 6, "Permission denied: /locked"),
        (OSError(errno.EMFILE, "Too many open files"), 6, "Too many open files"),
        (MemoryError(), 6, "more memory"),
        (SystemExit(0), 2, "sys.exit(0)"),
        (BrokenPipeError(), 141, ""),
        (ZeroDivisionError("x"), 1, "a bug of trt-ff"),
    ],
)
def test_every_cause_has_its_words_and_its_code(
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    told: str,
) -> None:
    raising(error)
    assert run(["engines"]) == code
    err = capsys.readouterr().err
    assert told in err and ("bug" in err) == (code == 1) and ("Traceback" in err) == (code == 1)


def test_json_is_one_object_whatever_else_prints(place: Workplace) -> None:
    noise = "import os, trt_facefusion.cli.engines as e; real = e.Store; "
    noise += "e.Store = lambda root: (print('python'), os.write(1, b'C'), os.system('echo child'), real(root))[-1]; "
    words = [sys.executable, "-c", noise + CODE, "engines", "--json", "--output", str(place.root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and json.loads(done.stdout) == {"schema": 1, "engines": []}
    assert "python" in done.stderr and "C" in done.stderr and "child" in done.stderr


def test_json_in_this_process_is_one_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    with console.json_only():
        sys.stdout.write("noise\n")
        console.print_json({"a": 1})
    sys.stdout.write("after\n")
    out, err = capsys.readouterr()
    assert out == '{\n  "a": 1\n}\nafter\n' and err == "noise\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_a_hang_up_ends_a_build_like_ctrl_c(start: Any, place: Workplace) -> None:
    process = start(place.options())
    assert any("reading the model" in line for line in process.stderr)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 129 and "interrupted" in err and "Traceback" not in err
    assert [name for name in place.left_behind() if Path(name).name.startswith(".")] == []


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "model").mkdir()
    (tmp_path / "model").chmod(0)
    try:
        assert run(["engines", "--output", str(tmp_path)]) == 6
        assert "Permission denied" in capsys.readouterr().out
    finally:
        (tmp_path / "model").chmod(0o755)


def test_an_unreadable_model_folder_is_listed_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).save(manifest(), FILES)
    (tmp_path / "locked").mkdir()
    real = Path.iterdir

    def refuse(self: Path) -> Iterator[Path]:
        if self.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert run(["engines", "--output", str(tmp_path)]) == 6
    shown = capsys.readouterr().out
    assert "reference" in shown and "locked" in shown and "Permission denied" in shown
