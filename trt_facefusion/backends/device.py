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


def current_device() -> Device | None:
    """The GPU that CUDA calls number 0; None where there is none, or no pycuda to ask with."""
    try:
        import pycuda.driver as cuda

        cuda.init()
        device = cuda.Device(0)
        with primary_context(cuda):
            free, total = cuda.mem_get_info()
    except Exception:  # an import that fails, no driver, no device, a lost one: pycuda has a class for each
        return None
    major, minor = device.compute_capability()
    return Device(device.name(), (int(major), int(minor)), int(cuda.get_driver_version()), int(free), int(total))


@contextmanager
def primary_context(cuda: Any) -> Iterator[Any]:
    """The GPU's primary context, current in this thread: the one that TensorRT and torch use."""
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        yield context
    finally:
        context.pop()
        context.detach()


def workspace_bytes(asked: int | None, device: Device | None) -> int:
    """Scratch memory for a build: what was asked for, else a share of what is free."""
    if asked is not None:
        return asked
    return int(device.free_bytes * WORKSPACE_SHARE) if device is not None else WORKSPACE_UNKNOWN_BYTES
