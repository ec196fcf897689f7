"""Counters and gauges as flat triples, for whoever exposes them. A name that ends with ``_total`` only ever grows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class Reading(NamedTuple):
    """One figure: its name, its labels, its value."""

    name: str
    labels: Mapping[str, str]
    value: float


class Tally:
    """Counters of one process, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def add(self, name: str, count: int = 1, /, **labels: str) -> None:
        """Count ``count`` more of ``name``, which ends with ``_total``; 0 makes the counter appear."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += count

    def read(self) -> list[Reading]:
        """All counters, by name and labels."""
        with self._lock:
            entries = sorted(self._counts.items())
        return [Reading(name, dict(labels), float(count)) for (name, labels), count in entries]
