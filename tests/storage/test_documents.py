"""The strict reader: what is wrong is named with its field, and nothing takes the machine along."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_facefusion.storage.arrays import read_npy, read_npz
from trt_facefusion.storage.documents import LATER, DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.plain_yaml import parse_yaml


@dataclass(frozen=True)
class Part:
    from_: str
    size: int = 3


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    shares: Mapping[str, float]
    pair: tuple[int, int] | None
    anything: Any = None
    new: bool = field(default=False, metadata=LATER)


GOOD: dict[str, Any] = {
    "name": "n\udcff",
    "parts": [{"from": "a", "size": 1}],
    "shares": {"x": 1},
    "pair": [1, 2],
    "anything": {"a": []},
}


def test_a_document_becomes_its_dataclasses() -> None:
    whole = decode(Whole, GOOD, "w")
    assert whole == Whole("n\udcff", (Part("a", 1),), {"x": 1.0}, (1, 2), {"a": []})
    assert decode(Whole, {**GOOD, "surprise": 1}, "w", lenient=True) == whole


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": 7}, "w.name is 7, not str"),
        ({"name": None}, "w.name"),
        ({"parts": {}}, "w.parts is an object of 0, not list"),
        ({"parts": [{"from": "a", "size": True}]}, "w.parts[0].size is True"),
        ({"parts": [{"from": "a", "size": 10**30}]}, "w.parts[0].size is too large"),
        ({"parts": [{"from": "a", "size": 1, "from_": "b"}]}, "w.parts[0].from_ is unknown"),
        ({"parts": [{"from": "a"}]}, "w.parts[0].size is missing"),
        ({"shares": {"a:b": "1"}}, "w.shares.a:b is '1', not a number"),
        ({"shares": {"x": 10**400}}, "w.shares.x is not finite"),
        ({"shares": {"x": float("inf")}}, "w.shares.x is not finite"),
        ({"pair": [1]}, "w.pair has 1 items, not 2"),
        ({"pair": 10**5000}, "w.pair is a huge number, not list"),
        ({"surprise": 1}, "w.surprise is unknown"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DocumentError) as error:
        decode(Whole, {**GOOD, **changes}, "w")
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[-Infinity]", b"[" * 100_000,
        b"[" * 60 + b"]" * 60, b'{"a":' * 5000, b"1" * 5000, b'"\\ud800', b"{} {}",
    ],
)  # fmt: skip
def test_what_is_no_json_by_the_letter_is_refused(text: bytes) -> None:
    with pytest.raises(DocumentError):
        parse_json(text)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "alias"),
        ("a: &x 1\nb: *x\n", "alias"),
        ("a: !!python/name:os.system x", "tag"),
        ("a: !!int '7'", "tag"),
        ("a: 1\na: 2\n", "'a' twice"),
        ("- {name: x, precision: int8, precision: fp32}\n", "'precision' twice"),
        ("[" * 3000, "it "),
        ("- " * 3000, "deeper"),
        ("- []\n" * 600_000, "larger"),
        ("a: 2026-13-45\n", "not YAML"),
        ("{", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_yaml_that_is_more_than_a_plan_is_refused(text: str, told: str) -> None:
    with pytest.raises(DocumentError, match=told):
        parse_yaml(text)


def test_plain_yaml_is_read() -> None:
    text = "schema: 1\nnodes:\n- {name: x, macs: 3, on: true, what: [[a, b], {a: 1}]}\n- {name: x}\n"
    assert parse_yaml(text)["nodes"] == [
        {"name": "x", "macs": 3, True: True, "what": [["a", "b"], {"a": 1}]},
        {"name": "x"},
    ]


def test_pipes_devices_folders_and_what_is_too_large_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(DocumentError, match="no ordinary file"):
            read_bytes(path)
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(DocumentError, match="larger"):
        read_bytes(tmp_path / "large", 10)
    assert read_bytes(tmp_path / "large", 11) == b"x" * 11


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path, order: Any) -> None:
    values = np.asarray(np.arange(24, dtype=np.float16).reshape(2, 3, 4), order=order)
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", x=values, key="text", empty=np.zeros((0, 3)))
    assert np.array_equal(read_npy(tmp_path / "a.npy"), values)
    found = read_npz(tmp_path / "a.npz")
    assert np.array_equal(found["x"], values) and str(found["key"]) == "text" and found["empty"].shape == (0, 3)


def _npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x93NUMPY", b"PK\x03\x04", b"\x93NUMPY\x09\x00",
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': 'x'}"),
        _npy("__import__('os').abort()"), _npy("(" * 500),
    ],
)  # fmt: skip
def test_what_is_no_array_or_announces_too_much_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DocumentError):
        read_npy(tmp_path / "a.npy")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.npy", data)
    for content in (data, packed.getvalue()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DocumentError):
            read_npz(tmp_path / "a.npz")


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(4 << 20, np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    with pytest.raises(DocumentError, match="unpacks to more"):
        read_npz(tmp_path / "bomb.npz", 1 << 20)
