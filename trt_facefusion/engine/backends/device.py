"""The GPU of this machine, as far as pycuda is installed to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WORKSPACE_SHARE = 0.25
"""Share of the *free* memory that a build may use as scratch: other programs live on the card, too."""
WORKSPACE_UNKNOWN_BYTES = 1 << 30
"""Scratch memory where the free memory is not known."""


@dataclass(frozen=True)
class Device:
    """A GPU: ``compute_capability`` like (8, 6), ``driver`` the highest CUDA version it knows, like 13000."""

    name: str
    compute_capability: tuple[int, int]
    driver: int
    free_bytes: int
    total_bytes: int

    @property
    def target(self) -> str:
        """The target that engines for it have, like ``sm86``."""
        return "sm{}{}".format(*self.compute_capability)


def ask_device() -> Device | None:
    """The GPU that CUDA calls number 0; None where there is none, or no pycuda to ask with."""
    try:
        import pycuda.driver as cuda

        cuda.init()
        device = cuda.Device(0)
        context = PrimaryContext(cuda)
        with context.current():
            free, total = cuda.mem_get_info()
        context.release()
    except Exception:  # an import that fails, no driver, no device, a lost one: pycuda has a class for each
        return None
    major, minor = device.compute_capability()
    return Device(device.name(), (int(major), int(minor)), int(cuda.get_driver_version()), int(free), int(total))


class PrimaryContext:
    """The GPU's primary context, the one that TensorRT and torch use, held from here to `release`.

    It has to be held as long as anything made in it is used: with its last holder gone, the driver destroys it.
    """

    def __init__(self, cuda: Any) -> None:
        self._context = cuda.Device(0).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the current context of this thread."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def release(self) -> None:
        """Give it back; nothing made in it may be used any more."""
        if self._context is not None:
            self._context.detach()
            self._context = None


def limit_workspace(limit_bytes: int | None, device: Device | None) -> int:
    """Scratch memory for a build: what was asked for, else a share of what is free."""
    if limit_bytes is not None:
        return limit_bytes
    return int(device.free_bytes * WORKSPACE_SHARE) if device is not None else WORKSPACE_UNKNOWN_BYTES
