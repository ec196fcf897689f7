"""Loads the emulated CUDA driver into this process, and steers it from tests."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ("async", "async_pageable", "sync", "executed", "early_free", "captures", "graph_launches")
COUNTERS = (
    "alloc", "free", "pin_alloc", "pin_free", "streams", "events", "graphs", "used", "busy_streams", "context_refs",
    *EVENTS,
)  # fmt: skip

ILLEGAL_ADDRESS = 700
UNKNOWN = 999
OUT_OF_MEMORY = 2


class CannotBuildError(Exception):
    """The emulator or pycuda could not be built here."""


def built() -> dict[str, str]:
    """Paths of the driver and of the folder with pycuda, made by scripts/build_pycuda.py where they are missing."""
    command = [sys.executable, str(ROOT / "scripts" / "build_pycuda.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuildError((done.stderr.strip().splitlines() or ["no message"])[-1])
    paths: dict[str, str] = json.loads(done.stdout)
    return paths


def load(paths: dict[str, str], memory_mb: float = 8192) -> EmulatedDriver:
    """Load the driver, then pycuda, which finds the driver by its name among what is loaded already."""
    os.environ.update({"CUEMU_LAZY": "1", "CUEMU_LATENCY_US": "0", "CUEMU_MEM_MB": str(memory_mb)})
    library = ctypes.CDLL(paths["driver"], mode=ctypes.RTLD_GLOBAL)
    for name in ("site", "bindings"):
        if paths[name] not in sys.path:
            sys.path.append(paths[name])  # behind the environment's own packages
    from pycuda import driver

    driver.init()
    if not driver.Device(0).name().startswith("cuemu"):
        raise CannotBuildError("a real CUDA driver was loaded before the emulated one")
    return EmulatedDriver(library, paths)


class EmulatedDriver:
    def __init__(self, library: Any, paths: dict[str, str]) -> None:
        self._library = library
        self._paths = paths
        self.loses_context = False
        self._before: dict[str, int] = {}
        library.cuemu_counter.restype = ctypes.c_long

    def begin(self) -> None:
        """Forget what was done and asked for before; what is allocated stays counted."""
        self.clear_faults()
        self.configure()
        self.loses_context = False
        self._before = {}
        self._before = {name: self[name] for name in EVENTS}

    def __getitem__(self, counter: str) -> int:
        value: int = self._library.cuemu_counter(counter.encode())
        if value < 0:
            raise KeyError(counter)
        return value - self._before.get(counter, 0)

    def held(self) -> dict[str, int]:
        """What is allocated and not freed."""
        gc.collect()
        return {
            "buffers": self["alloc"] - self["free"],
            "page-locked buffers": self["pin_alloc"] - self["pin_free"],
            "streams": self["streams"],
            "events": self["events"],
            "graphs": self["graphs"],
            "contexts": self["context_refs"],
        }

    def configure(self, lazy: bool = True, latency_us: float = 0, memory_mb: float = 8192) -> None:
        self._library.cuemu_set_lazy(int(lazy))
        self._library.cuemu_set_latency_us(ctypes.c_double(latency_us))
        self._library.cuemu_set_mem_mb(ctypes.c_double(memory_mb))

    def inject(self, point: str, result: int, after: int = 0, times: int = 1) -> None:
        """Let calls (or pieces of queued work, ``stream``) fail, after ``after`` that do not."""
        if not self._library.cuemu_inject(point.encode(), result, ctypes.c_long(after), ctypes.c_long(times)):
            raise KeyError(point)

    def clear_faults(self) -> None:
        self._library.cuemu_clear_faults()

    def repair_context(self) -> None:
        """Make a broken context whole, so that a test can clean up; a GPU cannot."""
        self._library.cuemu_repair_context()

    def run(self, code: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``code`` in a new interpreter with the emulated driver; there, ``emulator`` is one of these."""
        prelude = f"from cuda_emulator.driver import load\nemulator = load({self._paths!r})\n"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        return subprocess.run(
            [sys.executable, "-c", prelude + code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
