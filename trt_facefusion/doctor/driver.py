"""The NVIDIA driver and its GPUs, asked without pycuda: it may be what is missing."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CC_MAJOR, _CC_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NO_DEVICE = 100
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU, in CUDA's order. Memory is None where no context could be made on it."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    free_bytes: int | None

    @property
    def target(self) -> str:
        """The target that engines for it have, like ``sm86``."""
        return "sm{}{}".format(*self.compute_capability)


@dataclass(frozen=True)
class Driver:
    """The driver of this machine.

    ``release`` is like ``580.95.05`` where it can be found, ``cuda`` the highest CUDA version it knows (major, minor).
    ``problem`` says why there are no GPUs.
    """

    release: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


class _CudaError(Exception):
    """A call of the driver failed; the message is the driver's own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def ask_driver() -> Driver:
    """What the driver says of itself and its GPUs; never raises."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return Driver(_read_release(), problem="there is no NVIDIA driver (libcuda.so.1 was not found)")
    cuda = _Cuda(library)
    version = None
    try:
        version = cuda.version()
        cuda.call("cuInit", ctypes.c_uint(0))
        gpus = tuple(cuda.gpu(index) for index in range(cuda.count()))
    except _CudaError as error:
        return Driver(_read_release(), version, problem=_explain(error))
    except AttributeError as error:  # a function that this library lacks
        return Driver(_read_release(), version, problem=f"the driver's library is not CUDA's: {error}")
    return Driver(_read_release(), version, gpus, "" if gpus else _explain(_CudaError(_NO_DEVICE, "no device")))


class _Cuda:
    """The driver API, as far as it is needed here."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, function: str, *arguments: Any) -> None:
        code = int(getattr(self._library, function)(*arguments))
        if code:
            raise _CudaError(code, self._read_text(code))

    def _read_text(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
        return (text.value or f"error {code}".encode()).decode("utf-8", "replace")

    def version(self) -> tuple[int, int]:
        number = self._read_int("cuDriverGetVersion")
        return number // 1000, number % 1000 // 10

    def count(self) -> int:
        return self._read_int("cuDeviceGetCount")

    def gpu(self, index: int) -> Gpu:
        device = ctypes.c_int(self._read_int("cuDeviceGet", ctypes.c_int(index)))
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self.call("cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), device)
        major, minor = (self._read_int("cuDeviceGetAttribute", ctypes.c_int(a), device) for a in (_CC_MAJOR, _CC_MINOR))
        total = ctypes.c_size_t()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
        return Gpu(
            index, name.value.decode("utf-8", "replace"), (major, minor), total.value, self._read_free_bytes(device)
        )

    def _read_free_bytes(self, device: ctypes.c_int) -> int | None:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        try:
            with self._current(device):
                self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        except _CudaError:  # a full card makes no context
            return None
        return free.value

    @contextmanager
    def _current(self, device: ctypes.c_int) -> Iterator[None]:
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self.call("cuCtxPushCurrent_v2", context)
            try:
                yield
            finally:
                self.call("cuCtxPopCurrent_v2", ctypes.byref(context))
        finally:
            self.call("cuDevicePrimaryCtxRelease_v2", device)

    def _read_int(self, function: str, *arguments: Any) -> int:
        number = ctypes.c_int()
        self.call(function, ctypes.byref(number), *arguments)
        return number.value


def _explain(error: _CudaError) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if error.code == _NO_DEVICE and visible is not None:
        return f"the driver shows no GPU: CUDA_VISIBLE_DEVICES is {visible!r}"
    if error.code == _NO_DEVICE:
        return "the driver is there, but no GPU (in a container: start it with --gpus all)"
    return f"the driver does not start: {error}"


def _read_release() -> str | None:
    """The driver's release, from the kernel module or nvidia-smi."""
    try:
        release = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        release = None
    if release:
        return release[1]
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    words = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)
