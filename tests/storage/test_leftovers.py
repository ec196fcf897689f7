"""Temporary files of the dead go, those of the living stay; file systems that can less than a local disk."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trt_facefusion.engine.store import lock as lock_module
from trt_facefusion.engine.store.atomic import commit_folder
from trt_facefusion.engine.store.lock import build_lock, try_lock
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import StoreError
from trt_facefusion.storage import leftovers
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.storage.leftovers import listen, locks_work, owned, scratch_folder, sweep_once

WRITING = {
    "a file": "import os\nos.fsync = wait\nwrite_atomic(folder / 'report.html', b'faces')",
    "a folder": "with commit_folder(folder / 'set') as place:\n    (place / 'a.png').write_bytes(b'face')\n    wait()",
    "scratch": "import tempfile\ntempfile.tempdir = str(folder)\nwith scratch_folder() as place:\n"
    "    (place / 'face.npz').write_bytes(b'face')\n    wait()",
}
SCRIPT = """
import sys, time
from pathlib import Path
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.engine.store.atomic import commit_folder
folder = Path(sys.argv[1])
def wait(*_):
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A process that has swept and told nothing yet; gives what it tells."""
    told: list[str] = []
    monkeypatch.setattr(leftovers, "_weaknesses_announced", set())
    monkeypatch.setattr(leftovers, "_swept", set())
    monkeypatch.setattr(lock_module, "_LOCKS", {})
    listen(told.append)
    yield told
    listen(lambda message: None)


@pytest.fixture
def writer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing into ``tmp_path``."""
    command = [sys.executable, "-c", SCRIPT + WRITING[request.param], str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What any writer does; scratch folders have a place of their own."""
    leftovers._swept.clear()
    write_atomic(folder / "other", b"x")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with scratch_folder():
        pass
    (folder / "other").unlink()


@pytest.mark.parametrize("writer", WRITING, indirect=True)
def test_what_the_living_write_stays_and_what_the_dead_left_goes(
    tmp_path: Path, writer: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (left,) = tmp_path.iterdir()
    write(tmp_path, monkeypatch)
    assert [*tmp_path.iterdir()] == [left]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    write(tmp_path, monkeypatch)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("writer", ["a folder"], indirect=True)
def test_where_there_are_no_locks_only_what_is_a_day_old_goes(
    tmp_path: Path, writer: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.kill()
    writer.wait()
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    write(tmp_path, monkeypatch)
    assert left.exists()
    for path in (left, *left.iterdir()):
        os.utime(path, (time.time() - 100_000,) * 2)
    write(tmp_path, monkeypatch)
    assert not left.exists()


def test_files_of_others_and_names_that_are_not_ours_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [".tmp-notes", ".old-1-2", ".tmp-00000000-0000000g-x", "tmp-00000000-00000000-x", "trt-ff-mine"]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / ".tmp-00000000-00000000-link").symlink_to(tmp_path / names[0])
    write(tmp_path, monkeypatch)
    assert {path.name for path in tmp_path.iterdir()} >= set(names)
    assert (tmp_path / names[0]).read_text() == "x"
    if os.geteuid() == 0:
        foreign = tmp_path / ".tmp-00000000-00000000-foreign"
        foreign.write_text("x")
        os.chown(foreign, 12345, 12345)
        write(tmp_path, monkeypatch)
        assert foreign.exists()


def test_a_file_that_is_swept_before_it_is_owned_is_made_again(tmp_path: Path) -> None:
    made = []

    def make(path: Path) -> None:
        path.touch()
        made.append(path)

    def swept(path: Path, *, wait: bool) -> int | None:
        if len(made) == 1:
            path.unlink()
            path.touch()  # another file by now
            handle = os.open(path, os.O_RDONLY)
            path.unlink()
            return handle
        return real(path, wait=wait)

    real = leftovers._lock_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leftovers, "_lock_file", swept)
        with owned(tmp_path / "file", make) as seen:
            assert seen and len(made) == 2 and (tmp_path / "file").exists()


def failing(code: int, only_folders: bool = False) -> object:
    real = os.fsync

    def fail(handle: int, *_: object) -> None:
        if only_folders and not os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            return real(handle)
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_folder_that_cannot_be_synced_works_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: list[str], code: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code, only_folders=True))
    for text in (b"one", b"two"):
        write_atomic(tmp_path / "file", text)
        with commit_folder(tmp_path / "folder") as folder:
            (folder / "file").write_bytes(text)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "file").read_bytes() == b"two"
    assert len(set(fresh)) == len(fresh) and any("power cut" in message for message in fresh)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_works_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: list[str], code: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(code))
    assert not locks_work(tmp_path)
    for _ in range(2):
        with build_lock(tmp_path / "model", timeout_s=0), try_lock(tmp_path / "model") as free:
            assert free
            write_atomic(tmp_path / "model" / "file", b"x")
    Store(tmp_path)
    assert [message for message in fresh if "without locks" in message] == fresh and len(fresh) == 1
    assert not [path for path in tmp_path.rglob(".*") if not path.name.startswith(".lock-")]


def test_a_disk_that_fails_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StoreError):
        write_atomic(tmp_path / "file", b"x")


def test_a_file_system_that_renames_over_nothing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.rename

    def replace(self: Path, target: Path) -> Path:
        if target.exists():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    for text in (b"one", b"two"):
        write_atomic(tmp_path / "file", text)
    assert (tmp_path / "file").read_bytes() == b"two" and len([*tmp_path.iterdir()]) == 1


def test_a_full_temporary_folder_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StoreError, match="temporary folder") as error, scratch_folder():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "TMPDIR" in error.value.remedy and not any(tmp_path.iterdir())
    with pytest.raises(PermissionError), scratch_folder():
        raise PermissionError(errno.EACCES, "no", "photo.jpg")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting takes root")
def test_a_store_on_a_read_only_disk_can_be_read(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        (tmp_path / ".tmp-00000000-00000000-x").write_text("x")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        sweep_once(tmp_path)
        assert Store(tmp_path).list() == []
        with pytest.raises(StoreError, match="Read-only"), build_lock(tmp_path / "model", timeout_s=0):
            pass
    finally:
        subprocess.run(["umount", tmp_path], check=True)
