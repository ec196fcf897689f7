"""Histograms of |x| that stream: one fixed-size array per tensor, the same bits whatever the order of the data."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.types import Array

BINS = 2048
"""Bins of TensorRT's entropy calibrator."""

MIN_EXPONENT, MAX_EXPONENT = -100, 127
"""The smallest range is 2**-100; magnitudes of 2**127 and more count as not finite."""

SPARSE_VALUES = 1 << 16
"""About so many values of a sample `Histogram.add_sparsely` counts, where there are more."""

# 128 Ki values: float32 values and int16 indices stay in a 1 MiB L2 cache. Measured on 4 Mi values, in ns per value
# (AMD EPYC): this file 0.9-1.4, np.bincount 1.6-2.4, cv2.calcHist on float32 1.9-2.2; the floor, np.abs(x).max(), 0.23.
_CHUNK = 1 << 17
_SMALL = 1 << 14  # below this the 64 Ki look-up table that cv2.calcHist fills on every call costs more than it saves

# Neighbouring values count into different copies of the histogram, or runs of equal values (the zeros of a ReLU) would
# make each increment wait for the one before it: 1.2 instead of 2.4 ns on a tensor that is 95 % zeros.
_LANES = 4
_LANE_OFFSETS = np.tile(np.arange(_LANES, dtype=np.int16) * BINS, _CHUNK // _LANES)


class Histogram:
    """How often each magnitude of a tensor occurs: ``BINS`` equal bins over [0, 2**exponent).

    The range is always a power of two that lies above the largest magnitude, so bins merge in whole pairs when it grows
    and the state depends on the set of values only: not on their order, nor on how they were cut into batches.
    """

    __slots__ = ("amax", "counts", "exponent", "non_finite")

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.exponent = MIN_EXPONENT
        self.amax = 0.0
        """Largest finite magnitude, exact."""
        self.non_finite = 0
        """Values that were NaN or infinite; they are in no bin."""

    @property
    def count(self) -> int:
        """Finite values seen."""
        return int(self.counts.sum())

    @property
    def bin_width(self) -> float:
        """Width of a bin, a power of two."""
        return math.ldexp(1.0, self.exponent) / BINS

    def digest(self) -> bytes:
        """Equal for histograms of equal content alone."""
        state = f"{self.exponent} {float(self.amax).hex()} {self.non_finite}"
        return hashlib.blake2b(self.counts.tobytes() + state.encode(), digest_size=16).digest()

    def add(self, values: Array, weight: int = 1) -> None:
        """Count ``values``, each ``weight`` times: floating point, any shape; counted as float32."""
        flat = np.asarray(values, np.float32).ravel()
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[start : start + _CHUNK], weight)

    def add_sparsely(self, values: Array) -> None:
        """Count a part of ``values`` [N,...]: each sample's largest magnitude, and some evenly (`choose_thinning`).

        Each of these stands for those around it, and counts so many times. `amax` and the range are exactly those of
        all values, at a third of the cost. Which values count depends on the shape of a sample only, so the order of
        samples and their batches change nothing here either.
        """
        values = np.atleast_1d(values)
        steps = choose_thinning(values.shape[1:]) if len(values) else ()
        if math.prod(steps) == 1:
            self.add(values)
            return
        samples = np.asarray(values, np.float32)
        flat = samples.reshape(len(values), -1)
        part = samples[tuple(slice(step // 2, None, step) for step in (1, *steps))]
        self.add_part(flat.max(1, keepdims=True), flat.min(1, keepdims=True), part, math.prod(steps))

    def add_part(self, highest: Array, lowest: Array, part: Array, weight: int) -> None:
        """Count ``part`` of some samples' values, and the largest magnitude of each of them.

        Args:
            highest: the samples' largest values [N,...].
            lowest: their smallest.
            part: the values [N,...] that are counted.
            weight: how many values each of them stands for.
        """
        highest, lowest = (np.asarray(bound, np.float32).reshape(len(bound), -1) for bound in (highest, lowest))
        self.add(np.maximum(highest.max(1), -lowest.min(1)))
        self.add(part, weight)

    def merge(self, other: Histogram) -> None:
        """Add all that ``other`` has counted."""
        self._widen(other.exponent)
        self.counts += _widen_counts(other.counts, self.exponent - other.exponent)
        self.amax = max(self.amax, other.amax)
        self.non_finite += other.non_finite

    def as_dict(self) -> dict[str, Any]:
        """The state as JSON holds it; ``counts`` is base64 of zlib of little-endian int64."""
        counts = zlib.compress(self.counts.astype("<i8").tobytes(), 4)  # 9 takes sixty times as long, for a twentieth
        return {
            "exponent": self.exponent,
            "amax": self.amax,
            "non_finite": self.non_finite,
            "counts": base64.b64encode(counts).decode("ascii"),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Histogram:
        """The histogram that ``as_dict`` described.

        Raises:
            ValueError: the description is damaged, or contradicts itself.
        """
        try:
            histogram = cls()
            histogram.counts = _decode_counts(state["counts"])
            histogram.exponent = int(state["exponent"])
            histogram.amax = float(state["amax"])
            histogram.non_finite = int(state["non_finite"])
        except (KeyError, TypeError, zlib.error) as error:
            raise ValueError(f"not a histogram: {error!r}") from error
        if not histogram._is_consistent():
            raise ValueError("the histogram's counts and its largest magnitude contradict each other")
        return histogram

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine, its = ((h.exponent, h.amax, h.non_finite) for h in (self, other))
        return mine == its and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, amax={self.amax:g}, range=2**{self.exponent})"

    def _is_consistent(self) -> bool:
        if (
            not 0 <= self.amax < 2.0**MAX_EXPONENT
            or self.exponent != _find_exponent(self.amax)
            or self.counts.min() < 0
        ):
            return False
        filled = np.flatnonzero(self.counts)
        return bool(filled[-1] == int(self.amax / self.bin_width)) if filled.size else self.amax == 0

    def _add_chunk(self, chunk: NDArray[np.float32], weight: int) -> None:
        amax = max(float(chunk.max()), -float(chunk.min()))
        if not amax < 2.0**MAX_EXPONENT:  # NaN too, which max() and min() pass on
            finite = chunk[np.abs(chunk) < 2.0**MAX_EXPONENT]
            self.non_finite += chunk.size - finite.size
            if finite.size:
                self._add_chunk(finite, weight)
            return
        self.amax = max(self.amax, amax)
        self._widen(_find_exponent(amax))
        self.counts += weight * _count(chunk, self.exponent)

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _widen_counts(self.counts, exponent - self.exponent)
            self.exponent = exponent


def choose_thinning(shape: Sequence[int], every: int | None = None) -> tuple[int, ...]:
    """The step along each axis of a sample of ``shape``; 1 along all where it has no more than `SPARSE_VALUES`.

    Maps [C,H,W] are thinned in both directions, since neighbours are alike: counting starts in the middle of a step,
    not at the edge of every plane. Of other shapes the first axis is thinned, or nothing. ``every`` is about how many
    values each that is kept stands for, where the sample's size does not say it.
    """
    every = math.prod(shape) // SPARSE_VALUES if every is None else every
    if every <= 1 or len(shape) < 2:
        return (1,) * len(shape)
    if len(shape) != 3:
        return (min(every, shape[0]), *(1,) * (len(shape) - 1))
    rows = min(math.isqrt(every), shape[1])
    return (1, rows, min(every // rows, shape[2]))


def _find_exponent(amax: float) -> int:
    """The smallest exponent whose range lies above ``amax``."""
    return max(math.frexp(amax)[1], MIN_EXPONENT) if amax else MIN_EXPONENT


def _widen_counts(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The counts over a range that is ``2**doublings`` times as wide."""
    merged = counts.reshape(-1, min(2**doublings, BINS)).sum(1)
    return np.pad(merged, (0, BINS - merged.size))


def _count(chunk: NDArray[np.float32], exponent: int) -> NDArray[np.int64]:
    """Counts [BINS] of at most ``_CHUNK`` magnitudes below ``2**exponent``."""
    # Exact: the factor is a power of two, and the cast drops the fraction of negative and positive values alike.
    index = np.empty(chunk.size, np.int16)
    np.multiply(chunk, np.float32(math.ldexp(BINS, -exponent)), out=index, casting="unsafe")
    np.abs(index, out=index)
    if chunk.size < _SMALL:
        return np.bincount(index, minlength=BINS).astype(np.int64, copy=False)
    index += _LANE_OFFSETS[: chunk.size]
    bins = _LANES * BINS
    lanes = cv2.calcHist([index.view(np.uint16).reshape(1, -1)], [0], None, [bins], [0, bins])
    counts: NDArray[np.int64] = lanes.reshape(_LANES, BINS).sum(0).astype(np.int64)
    return counts  # float32 holds these counts exactly: below 2**24


def _decode_counts(text: str) -> NDArray[np.int64]:
    raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), BINS * 8 + 1)
    if len(raw) != BINS * 8:
        raise ValueError(f"a histogram holds {BINS} counts")
    return np.frombuffer(raw, "<i8").astype(np.int64)
