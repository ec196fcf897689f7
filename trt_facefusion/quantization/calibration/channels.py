"""A look at a few samples: the range of every channel, from which scales and shifts are computed, and much else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import length_hint

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.quantization.calibration.collect import (
    locate_tensors,
    measure_shapes,
    open_tapped_session,
    require_finite,
    run_batch,
)
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.taps import Tap, even_step, make_taps, thin_evenly
from trt_facefusion.types import Array, Feeds, Progress, silent

STAGE = "channels"
TAIL = 1e-4
"""Share of a channel's values that its range usually cuts off at either end."""

_BINS = 512
_PIXELS = 1024
"""Large maps are thinned to about this many pixels: neighbours tell little more, and counting them costs as much again
as the inference."""
_SMALLEST = -100


@dataclass(frozen=True)
class ChannelRanges:
    """Bounds [C] of each channel's values, perhaps but for a tail at either end; zero always lies inside."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


class ChannelHistogram:
    """Signed histograms of all channels of one tensor, each over a power-of-two range of its own.

    As with `Histogram`, the state depends on the set of values only: not on their order, nor on the batches.
    """

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 2 * _BINS), np.int64)
        self.exponents = np.full(channels, _SMALLEST, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values`` [C,n]; they are finite."""
        peaks = np.maximum(np.abs(values).max(axis=1), 2.0 ** (_SMALLEST - 1))
        self._widen(np.maximum(self.exponents, np.frexp(peaks)[1]))
        scale = np.exp2(-self.exponents.astype(np.float64)).astype(np.float32) * _BINS
        bins = np.floor(values * scale[:, None]).astype(np.int64) + _BINS
        np.clip(bins, 0, 2 * _BINS - 1, out=bins)
        bins += np.arange(len(values))[:, None] * 2 * _BINS
        self.counts += np.bincount(bins.ravel(), minlength=self.counts.size).reshape(self.counts.shape)

    def ranges(self, tail: float = TAIL) -> ChannelRanges:
        """The edges of the bins between which all values lie but the share ``tail`` at either end."""
        below = np.cumsum(self.counts, axis=1)
        cut = (tail * below[:, -1:] * (1 + 1e-12)).astype(np.int64)
        first = (below > cut).argmax(axis=1)
        last = (below >= below[:, -1:] - cut).argmax(axis=1)
        width = np.exp2(self.exponents.astype(np.float64)) / _BINS
        low, high = (first - _BINS) * width, (last + 1 - _BINS) * width
        empty = self.exponents == _SMALLEST
        return ChannelRanges(
            np.where(empty, 0, np.minimum(low, 0)).astype(np.float32),
            np.where(empty, 0, np.maximum(high, 0)).astype(np.float32),
        )

    def measure_tails(self, factors: NDArray[np.float32], tail: float) -> tuple[float, float]:
        """Bounds of all channels' values together, each channel times its positive factor [C], but for both tails.

        Zero always lies inside.
        """
        width = np.exp2(self.exponents.astype(np.float64)) / _BINS * factors
        low = ((np.arange(2 * _BINS) - _BINS) * width[:, None]).ravel()
        high = ((np.arange(2 * _BINS) + 1 - _BINS) * width[:, None]).ravel()
        counts = np.where(self.exponents[:, None] == _SMALLEST, 0, self.counts).ravel()
        cut = tail * counts.sum() * (1 + 1e-12)
        upwards, downwards = np.argsort(low, kind="stable"), np.argsort(-high, kind="stable")
        first = upwards[(np.cumsum(counts[upwards]) > cut).argmax()]
        last = downwards[(np.cumsum(counts[downwards]) > cut).argmax()]
        return (min(float(low[first]), 0.0), max(float(high[last]), 0.0)) if counts.any() else (0.0, 0.0)

    def _widen(self, exponents: NDArray[np.int64]) -> None:
        for channel in np.flatnonzero(exponents > self.exponents):
            self.counts[channel] = _widen_counts(
                self.counts[channel], int(exponents[channel] - self.exponents[channel])
            )
        self.exponents = exponents


def measure_channel_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[Feeds],
    *,
    tail: float = TAIL,
    progress: Progress = silent,
) -> dict[str, ChannelRanges]:
    """The range of each channel of ``tensors`` (activations [N,C,H,W]) over all ``batches``, whatever their order.

    ``tail`` is the share of values that is cut off at either end.

    Raises:
        ModelError: as `collect`.
    """
    return sample_ranges(model, (), tensors, batches, tail=tail, progress=progress)[1]


def sample_ranges(
    model: onnx.ModelProto,
    counted: Sequence[str],
    channels: Sequence[str],
    batches: Iterable[Feeds],
    *,
    tail: float = TAIL,
    progress: Progress = silent,
) -> tuple[dict[str, Histogram], dict[str, ChannelRanges]]:
    """A look at a few samples: histograms of ``counted`` (`Histogram.add_sparsely`), and `measure_channel_ranges`.

    Raises:
        BadInputError, ModelError: as `collect`.
    """
    histograms, by_channel = sample_channels(model, counted, channels, batches, progress=progress)
    return histograms, {name: histogram.ranges(tail) for name, histogram in by_channel.items()}


def sample_channels(
    model: onnx.ModelProto,
    counted: Sequence[str],
    channels: Sequence[str],
    batches: Iterable[Feeds],
    *,
    progress: Progress = silent,
) -> tuple[dict[str, Histogram], dict[str, ChannelHistogram]]:
    """The same look, with the histograms of all channels.

    Raises:
        BadInputError, ModelError: as `collect`.
    """
    fed, tapped = locate_tensors(model.graph, [*counted, *channels])
    counted_names, channel_names = set(counted), set(channels)
    total = length_hint(batches)
    shapes, batches = measure_shapes(model, [name for name in tapped if name in counted_names], batches)
    added, inner = make_taps(model, [name for name in tapped if name in counted_names], {}, shapes)
    thinned = thin_evenly(model, [name for name in tapped if name in channel_names], _PIXELS, added)
    outputs = list(dict.fromkeys([*(name for tap in inner for name in tap.outputs), *thinned.values()]))
    session = open_tapped_session(model, outputs, None, added)
    all_taps = [*(Tap(name, (name,)) for name in fed if name in counted_names), *inner]
    histograms = {name: Histogram() for name in (*fed, *tapped) if name in counted_names}
    by_channel: dict[str, ChannelHistogram] = {}
    for done, feeds in enumerate(batches):
        values = run_batch(session, fed, outputs, feeds)
        for tap in all_taps:
            tap.count([values[name] for name in tap.outputs], histograms)
        for name in (*fed, *tapped):
            if name in channel_names:
                output = thinned.get(name, name)
                sample = values[output] if output != name else _thin(values[name])
                by_channel.setdefault(name, ChannelHistogram(sample.shape[1])).add(_flatten_channels(sample))
        del values
        require_finite(histograms, fed, done)
        progress(STAGE, done + 1, total)
    return histograms, by_channel


def _thin(values: Array) -> Array:
    """A map [N,C,H,W] thinned to about `_PIXELS`."""
    step = even_step(values.shape[2:], _PIXELS)
    return values[:, :, ::step, ::step]


def _flatten_channels(values: Array) -> NDArray[np.float32]:
    """Values [C,n] of a map [N,C,h,w]; what is not finite counts as zero (`collect` complains)."""
    flat = np.ascontiguousarray(values.transpose(1, 0, 2, 3), np.float32).reshape(values.shape[1], -1)
    return np.where(np.abs(flat) < 2.0**127, flat, np.float32(0))


def _widen_counts(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """Counts [2 * _BINS] over a range that is ``2**doublings`` times as wide; bins merge around zero."""
    factor = 2 ** min(doublings, 9)
    merged = counts.reshape(-1, factor).sum(1)
    rescaled = np.zeros_like(counts)
    start = _BINS - len(merged) // 2
    rescaled[start : start + len(merged)] = merged
    return rescaled
