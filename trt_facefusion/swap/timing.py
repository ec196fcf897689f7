"""How long each stage of a swap takes, summed over faces and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STAGES = ("decode", "detect", "match", "align", "infer", "mask", "colour", "paste", "encode")
"""The stages, in their order."""


class StepTimes:
    """Seconds by stage; threads may add at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add what the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Add ``seconds``."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds by stage, in the order of the stages; those that did not occur are left out."""
        with self._lock:
            return {stage: self._seconds[stage] for stage in STAGES if stage in self._seconds}

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of each stage in the sum of all."""
        seconds = self.seconds
        total = sum(seconds.values())
        return {stage: part / total for stage, part in seconds.items()} if total else {}
