from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trt_facefusion.engine.store import atomic
from trt_facefusion.engine.store.atomic import commit_folder, sweep, write_atomic
from trt_facefusion.engine.store.lock import build_lock, try_lock
from trt_facefusion.errors import StoreError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".lock-")}


def fill(final: Path, text: str) -> None:
    with commit_folder(final) as folder:
        (folder / "engine").write_text(text)


def failing(code: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def killed_at(call: str, final: Path, occurrence: int = 1) -> None:
    """Run a commit in a process that kills itself with SIGKILL at the ``occurrence``-th ``call``."""
    script = f"""
import os, signal
from pathlib import Path
from trt_facefusion.engine.store.atomic import commit_folder
real, left = {call}, [{occurrence}]
def dying(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
{call} = dying
with commit_folder(Path({str(final)!r})) as folder:
    (folder / "engine").write_text("new")
    (folder / "manifest.json").write_text("new")
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    fill(tmp_path / "model" / "int8", "one")
    assert (tmp_path / "model" / "int8" / "engine").read_text() == "one"
    assert names(tmp_path / "model") == {"int8"}


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    final = tmp_path / "int8"
    fill(final, "one")
    (final / "stale").write_text("x")
    fill(final, "two")
    assert names(final) == {"engine"}
    assert (final / "engine").read_text() == "two"
    assert names(tmp_path) == {"int8"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), commit_folder(tmp_path / "model" / "int8") as folder:
        (folder / "engine").write_text("half")
        raise error
    assert names(tmp_path) == set()


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "int8", "old")
    with pytest.raises(ValueError, match="no"), commit_folder(tmp_path / "int8"):
        raise ValueError("no")
    assert (tmp_path / "int8" / "engine").read_text() == "old"
    assert names(tmp_path) == {"int8"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(StoreError) as error:
        fill(tmp_path / "model" / "int8", "one")
    assert os.strerror(code) in error.value.message
    assert error.value.remedy
    with pytest.raises(StoreError):
        write_atomic(tmp_path / "file", b"data")
    assert names(tmp_path) == set()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full_leaves_nothing(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        with pytest.raises(StoreError, match="No space left"), commit_folder(tmp_path / "int8") as folder:
            (folder / "engine").write_bytes(bytes(1 << 20))
        with pytest.raises(StoreError, match="No space left"):
            write_atomic(tmp_path / "file", bytes(1 << 20))
        assert names(tmp_path) == set()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(StoreError) as error:
        fill(tmp_path / "engines" / "model" / "int8", "one")
    assert "folder" in error.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        fill(tmp_path / "int8", "one")


@pytest.mark.parametrize(
    ("call", "occurrence"), [("os.fsync", 1), ("os.fsync", 2), ("os.fsync", 3), ("Path.rename", 1)]
)
def test_kill_9_before_the_rename_leaves_nothing_that_counts(tmp_path: Path, call: str, occurrence: int) -> None:
    final = tmp_path / "int8"
    killed_at(call, final, occurrence)
    assert not final.exists()
    assert names(tmp_path) != set()
    sweep(tmp_path, try_lock)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("occurrence", [1, 2], ids=["before the first rename", "between the renames"])
def test_kill_9_before_the_last_rename_keeps_the_old_folder(tmp_path: Path, occurrence: int) -> None:
    final = tmp_path / "model" / "int8"
    fill(final, "old")
    killed_at("Path.rename", final, occurrence)
    sweep(tmp_path, try_lock)
    assert (final / "engine").read_text() == "old"
    assert names(final.parent) == {"int8"}


def test_kill_9_after_the_renames_keeps_the_new_folder(tmp_path: Path) -> None:
    final = tmp_path / "int8"
    fill(final, "old")
    killed_at("os.fsync", final, 4)  # two files, the folder, then the folder above
    assert (final / "engine").read_text() == "new"
    sweep(tmp_path, try_lock)
    assert names(tmp_path) == {"int8"}


def test_sweep_leaves_the_work_of_the_living(tmp_path: Path) -> None:
    with commit_folder(tmp_path / "int8") as folder:
        sweep(tmp_path, try_lock)
        assert folder.exists()
    script = f"""
import sys
from pathlib import Path
from trt_facefusion.engine.store.atomic import sweep
from trt_facefusion.engine.store.lock import try_lock
sweep(Path({str(tmp_path)!r}), try_lock)
"""
    with build_lock(tmp_path / "fp16"), commit_folder(tmp_path / "fp16") as folder:
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
        assert folder.exists()


def test_sweep_touches_nothing_else(tmp_path: Path) -> None:
    for name in (".git-1", ".tmp-x", "tmp-1-2", ".tmp-00000000-zzzzzzzz-a"):
        (tmp_path / name).mkdir()
    sweep(tmp_path, try_lock)
    assert len(names(tmp_path)) == 4
    assert re.fullmatch(r"[0-9a-f]{8}", atomic.PROCESS)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "file", b"one")
    write_atomic(tmp_path / "new" / "file", b"two")
    assert (tmp_path / "new" / "file").read_bytes() == b"two"
    assert names(tmp_path / "new") == {"file"}
