"""Folders that cannot be written to: told before the work where possible, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workplace import Outcome, Workplace

from trt_facefusion.engine.store.store import Store

Command = Callable[[list[str]], Outcome]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def store_error(outcome: Outcome) -> dict[str, str]:
    assert (outcome.code, outcome.json["error"]["kind"]) == (6, "store"), outcome
    assert "Traceback" not in outcome.err
    error: dict[str, str] = outcome.json["error"]
    return error


def test_a_file_in_the_way_of_the_output(command: Command, place: Workplace) -> None:
    place.output.write_text("in the way")
    error = store_error(command([*place.options(), "--json"]))
    assert str(place.output) in error["message"] and "--output" in error["remedy"]
    assert place.output.read_text() == "in the way" and not place.cache.exists()


def test_an_output_below_a_file(command: Command, place: Workplace) -> None:
    (place.root / "file").write_text("")
    error = store_error(command([*place.options(output=place.root / "file" / "engines"), "--json"]))
    assert "Not a directory" in error["message"] and "A part of that path is a file" in error["remedy"]


def test_a_file_in_the_way_of_the_cache_is_told_before_the_faces_are_read(command: Command, place: Workplace) -> None:
    place.cache.write_text("in the way")
    outcome = command([*place.options(), "--json"])
    error = store_error(outcome)
    assert f"{place.cache} is a file" in error["message"] and "--cache" in error["remedy"]
    assert "calibration faces" not in outcome.err and not Store(place.output).list()


def test_a_read_only_output(command: Command, place: Workplace) -> None:
    with mounted(place.output, "ro,size=1m"):
        error = store_error(command([*place.options(), "--json"]))
        assert "Read-only file system" in error["message"] and "--output" in error["remedy"]


def test_a_full_output(command: Command, place: Workplace) -> None:
    with mounted(place.output, "size=256k") as folder:
        (folder / "ballast").write_bytes(bytes(220 << 10))
        error = store_error(command([*place.options(), "--json"]))
        assert "No space left on device" in error["message"] and "Free some disk space" in error["remedy"]
        assert not Store(folder).list()
        assert [name for name in place.left_behind() if name.startswith("out")] == ["out/ballast"]
        (folder / "ballast").unlink()
        assert command(place.options()).code == 0


def test_a_full_cache(command: Command, place: Workplace) -> None:
    with mounted(place.cache, "size=512k") as folder:
        (folder / "ballast").write_bytes(bytes(508 << 10))
        error = store_error(command([*place.options(), "--json"]))
        assert str(folder) in error["message"] and "No space left" in error["message"]
        assert not Store(place.output).list()
        (folder / "ballast").unlink()
        assert command(place.options()).code == 0


@pytest.mark.parametrize("failing", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 5))])
def test_a_disk_that_fills_up_at_any_file(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls = iter(range(99))

    def fsync(handle: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    store_error(command([*place.options(), "--json"]))
    assert not Store(place.output).list()
    leftovers = [name for name in place.left_behind() if Path(name).name.startswith(".")]
    assert leftovers == []
    outcome = command([*place.options(), "--json"])
    assert outcome.code == 0 and not outcome.json["engines"][0]["up_to_date"]


def test_a_failed_rebuild_leaves_the_old_engine(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(place.options()).code == 0
    before = Store(place.output).list()
    with monkeypatch.context() as full:
        full.setattr("trt_facefusion.engine.store.store.write_synced", _no_space)
        store_error(command([*place.options(batch="1:2:4"), "--json"]))
    assert Store(place.output).list() == before
    assert command([*place.options(), "--json"]).json["engines"][0]["up_to_date"]


def _no_space(path: Path, data: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
