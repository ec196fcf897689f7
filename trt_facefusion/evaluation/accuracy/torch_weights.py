"""The weights that packages of metrics ship, in torch's older file format: read without torch, no code is run.

Such a file is a row of pickles (a magic number, a version, a description of the machine, the tensors by name, the keys
of their storages), and behind them the values of each storage: a count of 8 bytes, then float32.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import ModelError
from trt_facefusion.storage.files import read_regular

_MAGIC = 0x1950A86A20F9469CFC6C
_FLOAT_STORAGE = "FloatStorage"
_MOST_BYTES = 256 << 20

Weights = Mapping[str, NDArray[np.float32]]
"""Tensors by name."""


def read_weights(path: Path) -> Weights:
    """The tensors of ``path``.

    Raises:
        ModelError: it cannot be read, is damaged, or holds anything but float32 tensors.
    """
    content = read_regular(path, "weights", ModelError)
    try:
        return _read(content)
    except (pickle.UnpicklingError, struct.error, ValueError, TypeError, EOFError, IndexError, KeyError) as error:
        raise ModelError(
            f"{path} holds no weights that can be read: {error}", "install the package that it belongs to again"
        ) from error


def _read(content: bytes) -> Weights:
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{len(content):,} bytes are more than such a network has")
    stream = io.BytesIO(content)
    if _Unpickler(stream).load() != _MAGIC:
        raise ValueError("it does not begin as torch's files do")
    for _ in ("version", "machine"):
        _Unpickler(stream).load()
    tensors = _Unpickler(stream).load()
    keys = _Unpickler(stream).load()
    storages = {key: _read_storage(stream) for key in keys}
    return {str(name): tensor.view(storages) for name, tensor in tensors.items()}


def _read_storage(stream: io.BytesIO) -> NDArray[np.float32]:
    (count,) = struct.unpack("<q", stream.read(8))
    values = stream.read(4 * count) if 0 <= count <= _MOST_BYTES // 4 else b""
    if len(values) != 4 * count:
        raise ValueError("it was cut off")
    return np.frombuffer(values, "<f4")


class _Tensor:
    """A tensor whose values are read later."""

    def __init__(self, storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def view(self, storages: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        count = int(np.prod(self.shape, dtype=np.int64))
        values = storages[self.storage][self.offset : self.offset + count]
        plain = np.cumprod((1, *self.shape[:0:-1]))[::-1] if self.shape else ()
        needed = [(stride, size) for stride, size in zip(self.strides, self.shape, strict=True) if size > 1]
        if needed != [(int(stride), size) for stride, size in zip(plain, self.shape, strict=True) if size > 1]:
            raise ValueError("a tensor is not stored row by row")
        return values.reshape(self.shape)


def _rebuild(storage: str, offset: int, shape: Any, strides: Any, *_: object) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _Unpickler(pickle.Unpickler):
    """Knows the three names that such a file may use, and no other."""

    _NAMES: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch", _FLOAT_STORAGE): _FLOAT_STORAGE,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._NAMES[module, name]
        except KeyError:
            _refuse(f"{module}.{name} is no weight")

    def persistent_load(self, identity: Any) -> str:
        kind, storage, key, *_ = identity
        if kind != "storage" or storage != _FLOAT_STORAGE:
            _refuse(f"{storage} is no float32")
        return str(key)


def _refuse(reason: str) -> NoReturn:
    raise pickle.UnpicklingError(reason)
