"""Weights that torch would take silently, or that would fill the memory: refused by name."""

from __future__ import annotations

import os
import resource
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory import forget_peak, peak_bytes

from trt_facefusion.errors import ModelError

torch = pytest.importorskip("torch", reason="pip install '.[torch]'")
from trt_facefusion.model.generators import load_weights, read_state  # noqa: E402

LINEAR = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


def saved(folder: Path, content: object, name: str = "net.pth") -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, folder / name)
    return folder / name


def rewritten(path: Path, change: Callable[[str, bytes], bytes], packed: int = zipfile.ZIP_STORED) -> Path:
    """The checkpoint with every entry of its zip file changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))
    return path


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.ones(2, 3, dtype=torch.int8), "int8"),
        (torch.ones(2, 3, dtype=torch.uint8), "uint8"),
        (torch.ones(2, 3, dtype=torch.bool), "bool"),
        (torch.ones(2, 3, dtype=torch.int64), "int64"),
        (torch.ones(2, 3, dtype=torch.complex64), "complex"),
        (torch.full((2, 3), 1e300, dtype=torch.float64), "FP32's range"),
        (torch.eye(2, 3).to_sparse(), "sparse"),
        (torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8), "quantised"),
        (torch.ones(2, 3, device="meta"), "no values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_float_weight_is_refused_by_name(tmp_path: Path, value: Any, told: str) -> None:
    path = saved(tmp_path, {**LINEAR, "weight": value})
    with pytest.raises(ModelError, match=told) as error:
        load_weights(torch.nn.Linear(3, 2), read_state(path), path)
    assert "'weight'" in error.value.message


def test_counters_and_masks_that_keep_their_values_are_taken(tmp_path: Path) -> None:
    net = torch.nn.Module()
    net.register_buffer("count", torch.zeros((), dtype=torch.int64))
    net.register_buffer("mask", torch.zeros(3, dtype=torch.bool))
    path = saved(tmp_path, {"count": torch.tensor(7, dtype=torch.int32), "mask": torch.tensor([1, 0, 1]).byte()})
    load_weights(net, read_state(path), path)
    assert net.count == 7 and net.mask.tolist() == [True, False, True]
    with pytest.raises(ModelError, match="'mask' is uint8, and the network's is bool"):
        load_weights(net, {"count": torch.tensor(1), "mask": torch.tensor([1, 0, 2]).byte()}, path)


def test_a_network_on_the_device_meta_is_filled(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2, device="meta")
    load_weights(net, LINEAR, tmp_path)
    assert torch.equal(net(torch.ones(1, 3)), torch.full((1, 2), 3.0))
    net = torch.nn.Linear(3, 2, device="meta")
    net.register_buffer("scale", torch.ones(1, device="meta"), persistent=False)
    with pytest.raises(ModelError, match="'scale'"):
        load_weights(net, LINEAR, tmp_path)


def zip_bomb(folder: Path) -> Path:
    path = saved(folder, {"w": torch.zeros(1 << 22)})
    return rewritten(path, lambda _, content: content, zipfile.ZIP_DEFLATED)


def absurd_view(folder: Path) -> Path:
    """One tensor of four floats that claims two thousand million."""
    path = saved(folder, {"w": torch.arange(4.0)})

    def claim(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        size, stride = b"QK\x00K\x04\x85", b"K\x01\x85"
        return content.replace(size, b"QK\x00J\xff\xff\xff\x7f\x85", 1).replace(stride, b"K\x00\x85", 1)

    return rewritten(path, claim)


def many_views(folder: Path) -> Path:
    storage = torch.zeros(1 << 16)
    return saved(folder, {f"w{i}": storage[:] for i in range(2000)})


def absurd_storage(folder: Path) -> Path:
    path = saved(folder, {"w": torch.arange(4.0)})
    return rewritten(path, lambda name, d: d.replace(b"K\x04t", b"J\xff\xff\xff\x0ft") if name.endswith("pkl") else d)


def absurd_storage_of_the_older_format(folder: Path) -> Path:
    path = folder / "net.pth"
    torch.save({"w": torch.arange(4.0)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    changed = content.replace(b"K\x04N", b"\x8a\x05\x00\x00\x00\x00\x10N", 1).replace(
        b"K\x04\x85", b"\x8a\x05\x00\x00\x00\x00\x10\x85", 1
    )
    assert changed != content
    path.write_bytes(changed)
    return path


def endless_bytes(folder: Path) -> Path:
    """A pickle that asks for a terabyte of zeros, which torch allows."""
    pickled = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."
    path = saved(folder, {"w": torch.arange(4.0)})
    return rewritten(path, lambda name, content: pickled if name.endswith("data.pkl") else content)


def absurd_header(folder: Path) -> Path:
    (folder / "net.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    return folder / "net.safetensors"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "net.pth")
    return folder / "net.pth"


def device(folder: Path) -> Path:
    (folder / "net.safetensors").symlink_to("/dev/zero")
    return folder / "net.safetensors"


@pytest.mark.parametrize(
    "make",
    [
        zip_bomb,
        absurd_view,
        many_views,
        absurd_storage,
        absurd_storage_of_the_older_format,
        endless_bytes,
        absurd_header,
        fifo,
        device,
    ],
)
def test_what_claims_more_than_it_holds_is_refused_and_costs_nothing(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    before = forget_peak()
    started = time.monotonic()
    with pytest.raises(ModelError, match="net"):
        read_state(path)
    assert time.monotonic() - started < 30
    assert peak_bytes() - before < 1 << 30


def test_the_limit_of_memory_ends_with_the_reading(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    read_state(saved(tmp_path, LINEAR))
    assert resource.getrlimit(resource.RLIMIT_AS) == before
