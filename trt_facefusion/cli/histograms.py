"""Histograms and thresholds drawn for a terminal: block characters, logarithmic counts, a letter at each threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.quantization.calibration import Calibration, Histogram, parse_rule
from trt_facefusion.quantization.calibration.noise import compute_clipped_share, compute_sqnr_db
from trt_facefusion.quantization.calibration.thresholds import list_compared_rules

BARS = " ▁▂▃▄▅▆▇█"
HEIGHT = 7
PINNED = "pinned"

_MARGIN = 9
_STEPS = len(BARS) - 1


def count_columns(histogram: Histogram, width: int) -> NDArray[np.int64]:
    """Counts [width] of equal slices from 0 to the largest magnitude; a slice narrower than a bin shows that bin."""
    used = max(int(histogram.amax / histogram.bin_width) + 1, 1)
    edges = [used * index // width for index in range(width + 1)]
    slices = [(low, max(high, low + 1)) for low, high in pairwise(edges)]
    return np.array([histogram.counts[low:high].sum() for low, high in slices], np.int64)


def draw_sparkline(histogram: Histogram, width: int) -> str:
    """The histogram as one line of bars, logarithmic: the tail is what a range decides about."""
    counts = [int(count) for count in count_columns(histogram, width)]
    highest = max(*counts, 2).bit_length()
    return "".join(BARS[-(-count.bit_length() * _STEPS // highest)] for count in counts)


def compute_thresholds(calibration: Calibration, tensor: str) -> dict[str, float]:
    """amax of a tensor by every rule that is worth comparing, the one in use among them."""
    histogram = calibration.histograms[tensor]
    thresholds = {rule: parse_rule(rule)(histogram) for rule in list_compared_rules()}
    used = find_used_rule(calibration, tensor)
    thresholds[used] = calibration.table[tensor]
    return thresholds


def find_used_rule(calibration: Calibration, tensor: str) -> str:
    """The rule that a tensor's range follows, or that it is pinned."""
    return PINNED if tensor in calibration.pinned else str(parse_rule(calibration.rule_of(tensor)))


def list_worst(calibration: Calibration, count: int) -> list[str]:
    """The tensors that INT8 disturbs most (lowest SQNR), of those that it reads as far as that is known."""
    choice = calibration.choice
    names = choice.quantised if choice is not None and choice.quantised else tuple(calibration.histograms)
    live = [name for name in names if name in calibration.histograms and calibration.histograms[name].amax]
    table = calibration.table
    return sorted(live, key=lambda name: compute_sqnr_db(calibration.histograms[name], table[name]))[:count]


def draw(calibration: Calibration, tensor: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns: the bars, a letter at each threshold, and what each of them costs."""
    histogram = calibration.histograms[tensor]
    thresholds = sorted(compute_thresholds(calibration, tensor).items(), key=lambda rule_amax: rule_amax[1])
    columns = max(width - _MARGIN - 1, 20)
    bars = _draw_bars(count_columns(histogram, columns))
    highest = int(count_columns(histogram, columns).max())
    labels = {0: f"{highest:.1e}", HEIGHT - 1: "1"}
    lines = [f"{labels.get(row, ''):>{_MARGIN - 2}} │{bar}" for row, bar in enumerate(bars)]
    lines.append(" " * (_MARGIN - 1) + "└" + "─" * columns)
    lines.append(
        " " * (_MARGIN - 2) + "0 " + _draw_markers([amax / (histogram.amax or 1.0) for _, amax in thresholds], columns)
    )
    used = find_used_rule(calibration, tensor)
    return lines + _draw_legend(histogram, thresholds, used)


def describe_tensor(calibration: Calibration, tensor: str) -> Mapping[str, object]:
    """A tensor for ``--json``: its thresholds, and what the one in use costs."""
    histogram, amax = calibration.histograms[tensor], calibration.table[tensor]
    return {
        "amax": amax,
        "rule": find_used_rule(calibration, tensor),
        "largest": histogram.amax,
        "values": histogram.count,
        "sqnr_db": compute_sqnr_db(histogram, amax),
        "clipped": compute_clipped_share(histogram, amax),
        "thresholds": compute_thresholds(calibration, tensor),
        "limit": histogram.bin_width * len(histogram.counts),
        "counts": histogram.counts.reshape(128, -1).sum(1).tolist(),
    }


def _draw_bars(counts: NDArray[np.int64]) -> list[str]:
    """`HEIGHT` lines; the height of a bar is the logarithm of its count, and one value already shows."""
    log = np.log10(np.maximum(counts, 1))
    scale = (HEIGHT * _STEPS - 1) / max(float(log.max()), 1e-9)
    heights = np.where(counts > 0, 1 + np.rint(log * scale), 0).astype(int)
    return [
        "".join(BARS[min(max(int(height) - (HEIGHT - 1 - row) * _STEPS, 0), _STEPS)] for height in heights)
        for row in range(HEIGHT)
    ]


def _draw_markers(positions: Sequence[float], columns: int) -> str:
    """A letter under the column of each position (a share of the axis, rising); those that meet stand side by side."""
    line = [" "] * columns
    last = -1
    for index, position in enumerate(positions):
        left = len(positions) - 1 - index  # letters that must still fit to the right
        column = min(max(int(position * columns), last + 1), columns - 1 - left)
        line[column] = ascii_lowercase[index]
        last = column
    return "".join(line).rstrip()


def _draw_legend(histogram: Histogram, thresholds: Sequence[tuple[str, float]], used: str) -> list[str]:
    lines = []
    for letter, (rule, amax) in zip(ascii_lowercase, thresholds, strict=False):
        costs = f"clips {compute_clipped_share(histogram, amax):8.4%}  SQNR {compute_sqnr_db(histogram, amax):6.2f} dB"
        mark = "  < used" if rule == used else ""
        lines.append(f"{'':{_MARGIN}}{letter} {rule:<17} {amax:>9.5g}  {costs}{mark}")
    return lines
