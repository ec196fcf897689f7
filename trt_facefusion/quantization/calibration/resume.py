"""A pass that was interrupted continues where it stopped: what was counted stays counted, bit by bit."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.storage.arrays import read_npz
from trt_facefusion.storage.files import write_atomic

EVERY_S = 5.0
"""Seconds between two writes: what an interruption may cost."""

_SCHEMA = 1


class CalibrationCheckpoint:
    """The state of one pass in one file.

    ``parts`` are plain JSON values that name everything the histograms depend on (digests, batch size, versions): a
    file of another pass is not taken up.
    """

    def __init__(self, path: Path, parts: Mapping[str, Any], every_s: float = EVERY_S) -> None:
        self.path = path
        text = json.dumps({"schema": _SCHEMA, **parts}, sort_keys=True)
        self.key = hashlib.sha256(text.encode("utf-8")).hexdigest()
        self.every_s = every_s
        self._written = time.monotonic()

    def load(self) -> tuple[int, dict[str, Histogram]]:
        """Batches done, and their histograms; nothing done where there is no file of this pass."""
        try:
            state = read_npz(self.path)
            if str(state["key"]) != self.key:
                return 0, {}
            names = [str(name) for name in state["names"]]
            columns = (state["counts"], state["exponents"], state["amax"])
            found = {name: _histogram(*values) for name, *values in zip(names, *columns, strict=True)}
            return int(state["done"]), found
        except (OSError, ValueError, TypeError, KeyError):
            return 0, {}  # a damaged file costs the pass from the start, no more

    def save(self, done: int, histograms: Mapping[str, Histogram], now: bool = False) -> None:
        """Write the state after ``done`` batches, unless the last write is less than ``every_s`` ago and not ``now``.

        Raises:
            StoreError: the disk is full, or the folder cannot be written to.
        """
        if not now and time.monotonic() - self._written < self.every_s:
            return
        packed = io.BytesIO()
        np.savez(
            packed,
            key=self.key,
            done=done,
            names=np.array(list(histograms)),
            counts=np.array([histogram.counts for histogram in histograms.values()]),
            exponents=np.array([histogram.exponent for histogram in histograms.values()]),
            amax=np.array([histogram.amax for histogram in histograms.values()], np.float64),
        )
        write_atomic(self.path, packed.getvalue(), "--cache")
        self._written = time.monotonic()

    def discard(self) -> None:
        """Remove the file: the pass is over."""
        self.path.unlink(missing_ok=True)


def _histogram(counts: Any, exponent: Any, amax: Any) -> Histogram:
    histogram = Histogram()
    histogram.counts = counts.astype(np.int64)
    histogram.exponent, histogram.amax = int(exponent), float(amax)
    return histogram
