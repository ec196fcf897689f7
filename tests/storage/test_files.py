"""Files that are none: nothing waits for a FIFO, nothing reads a device."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.storage.files import digest_regular, read_regular, require_regular_file

WORDS = {"fifo": "FIFO", "link to a device": "a device", "nothing": "does not exist", "zero byte": "cannot exist"}


def special(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    if name == "fifo":
        os.mkfifo(path)
    elif name == "folder":
        path.mkdir()
    elif name == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif name == "link to a device":
        path.symlink_to("/dev/zero")
    elif name == "zero byte":
        return tmp_path / "a\0b"
    return path


@pytest.mark.parametrize("name", ["fifo", "folder", "socket", "link to a device", "nothing", "zero byte"])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = special(tmp_path, name)
    with pytest.raises(ModelError, match=r"the checkpoint .*" + WORDS.get(name, name)):
        require_regular_file(path, "checkpoint", ModelError)
    with pytest.raises(ModelError, match="the checkpoint"):
        read_regular(path, "checkpoint", ModelError)
    with pytest.raises(ModelError, match="the checkpoint"):
        digest_regular(path, "checkpoint", ModelError)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 7])
def test_a_file_is_hashed_in_parts_as_it_is_whole(tmp_path: Path, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert digest_regular(tmp_path / "file") == hashlib.sha256(data[:size]).digest()


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        require_regular_file(tmp_path / name)
        assert read_regular(tmp_path / name) == b"content"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))
    assert read_regular(tmp_path / "file", limit_bytes=11) == bytes(11)
    with pytest.raises(BadInputError, match="11 bytes, more than the 10"):
        read_regular(tmp_path / "file", limit_bytes=10)


def test_a_virtual_file_that_hides_its_size_is_bounded_too() -> None:
    path = Path("/proc/self/maps")  # a regular file of 0 bytes, by its own account
    if not path.is_file():
        pytest.skip("no /proc")
    with pytest.raises(BadInputError, match="more than the 10"):
        read_regular(path, limit_bytes=10)
