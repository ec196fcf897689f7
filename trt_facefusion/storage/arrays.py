"""Reading .npy and .npz files of strangers: never code from them, and never more than they hold and a bound allows."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trt_facefusion.storage.documents import DocumentError, read_bytes

LARGEST_BYTES = 1 << 30


def read_npy(path: Path, largest: int = LARGEST_BYTES) -> NDArray[Any]:
    """The array of a .npy file; it cannot be written to.

    Raises:
        OSError: it is not there, or cannot be read.
        DocumentError: it is no such file, holds Python objects, or announces more than there is or ``largest`` bytes.
    """
    content = read_bytes(path, largest)
    return _read_array(io.BytesIO(content), len(content), path.name)


def read_npz(path: Path, largest: int = LARGEST_BYTES) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name, which cannot be written to; together they take at most ``largest`` bytes.

    Raises:
        OSError: it is not there, or cannot be read.
        DocumentError: it is no such file, or one of its arrays cannot be read (`read_npy`).
    """
    content = read_bytes(path, largest)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            entries = packed.infolist()
            if sum(entry.file_size for entry in entries) > largest:
                raise DocumentError(f"it unpacks to more than {largest >> 20} MiB")
            by_name = {}
            for entry in entries:
                with packed.open(entry) as file:
                    by_name[entry.filename.removesuffix(".npy")] = _read_array(file, entry.file_size, entry.filename)
    except DocumentError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on a damaged file
        raise DocumentError(f"it is no .npz file: {error or type(error).__name__}") from error
    return by_name


def _read_array(file: IO[bytes], size: int, name: str) -> NDArray[Any]:
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read_header is None:
            raise DocumentError(f"{name} is of version {version} of the format, which is not read")
        shape, columns_first, dtype = read_header(file)
        if dtype.hasobject:
            raise DocumentError(f"{name} holds Python objects")
        count = math.prod(shape) * dtype.itemsize
        if not all(length >= 0 for length in shape) or count > size:
            raise DocumentError(f"{name} announces {shape} of {dtype}, more than it holds")
        chunk = file.read(count)
    except DocumentError:
        raise
    except Exception as error:  # as above: the header is a Python literal, and fails in as many ways
        raise DocumentError(f"{name} is not one array: {error or type(error).__name__}") from error
    if len(chunk) < count:
        raise DocumentError(f"{name} ends too early")
    flat = np.frombuffer(chunk, dtype) if dtype.itemsize else np.empty(math.prod(shape), dtype)
    return flat.reshape(shape, order="F" if columns_first else "C")
