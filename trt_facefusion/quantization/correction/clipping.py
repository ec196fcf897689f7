"""Which of many scales quantises each row of a matrix with the smallest error.

All are tried in single precision first, which takes a small part of the time. What that may be wrong by has a bound, so
a scale is only left out where double precision would not have chosen it either; what remains is measured in double.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.types import Array

_Floats = NDArray[np.float64]

_COLUMNS, _VALUES = 1024, 1 << 16
"""Columns whose errors are added up in single precision, and values at a time: they stay in a core's cache."""
_ROWS = 64
_MAX_WORKERS = 4
_ROUNDING = 2.0**-24
"""What one operation in single precision is wrong by, relatively."""
_SMALLEST = (2.0**-110, 2.0**-50)
"""What underflow may be wrong by for each column, in weights and in steps of the scale: far more than it is."""


def find_best_scales(matrix: _Floats, scales: Array, variances: _Floats) -> Array:
    """The scale of each row with the smallest ``sum_k var_k * (w_k - quantised w_k)**2``; the first of equal ones.

    Args:
        matrix: weights [O,K].
        scales: candidates [C,O] as they are stored; the first is taken where no error can be compared.
        variances: weight of each column's error [K], at least 0.

    Returns:
        Scales [O], in the type of ``scales``.
    """
    starts = range(0, len(matrix), _ROWS)
    parts = [slice(start, start + _ROWS) for start in starts]

    def pick(rows: slice) -> NDArray[np.intp]:
        with np.errstate(all="ignore"):  # what is not finite is decided in double precision, as every doubt is
            return _pick_scales(matrix[rows], scales[:, rows].astype(np.float64), variances)

    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        best = np.concatenate(list(pool.map(pick, parts)))
    return np.asarray(scales[best, np.arange(len(matrix))])


def measure_quantisation_error(matrix: _Floats, scale: _Floats, variances: _Floats) -> _Floats:
    """``sum_k var_k * (w_k - quantised w_k)**2`` of each row [O] of ``matrix`` [O,K] with its ``scale`` [O]."""
    column = scale[:, None]
    error = matrix / column
    np.rint(error, out=error)
    np.clip(error, -INT8_MAX, INT8_MAX, out=error)
    error *= column
    error -= matrix
    error *= error
    return np.asarray(error @ variances)


def _pick_scales(matrix: _Floats, scales: _Floats, variances: _Floats) -> NDArray[np.intp]:
    """The number of each row's candidate."""
    shortlist = _shortlist_scales(matrix, scales, variances)
    shortlist[1:] &= scales[1:] != scales[:-1]  # the same scale has the same error
    best = shortlist.argmax(axis=0)
    doubtful = shortlist.sum(axis=0) > 1
    smallest = np.full(len(matrix), np.inf)
    best[doubtful] = 0
    for number, candidates in enumerate(shortlist):
        rows = np.flatnonzero(candidates & doubtful)
        if len(rows):
            error = measure_quantisation_error(matrix[rows], scales[number, rows], variances)
            better = rows[error < smallest[rows]]
            smallest[rows] = np.minimum(error, smallest[rows])
            best[better] = number
    return np.asarray(best)


def _shortlist_scales(matrix: _Floats, scales: _Floats, variances: _Floats) -> NDArray[np.bool_]:
    """Which scales [C,O] may have the smallest error, as far as single precision can tell.

    Roots of errors are norms of the distances to the grid, each of which changes by no more than what a weight is
    wrong by; so the norm of what all weights are wrong by bounds what a root is.
    """
    top = variances.max(initial=0.0) or 1.0
    roots = np.sqrt(variances / top)
    narrow_roots = roots.astype(np.float32)
    squared_steps = np.zeros(scales.shape)
    squares = np.zeros(len(matrix))
    inverse = (1 / scales).astype(np.float32)[:, :, None]
    for start in range(0, matrix.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        wide = matrix[:, columns] * roots[columns]
        squares += np.einsum("ij,ij->i", wide, wide)
        narrow = matrix[:, columns].astype(np.float32)
        lines = max(_VALUES // narrow.shape[1], 1)
        for first in range(0, len(matrix), lines):
            rows = slice(first, first + lines)
            squared_steps[:, rows] += _sum_squares(narrow[rows], inverse[:, rows], narrow_roots[columns])
    norms = scales * np.sqrt(squared_steps)
    small_weight, small_step = _SMALLEST
    wrong = 8 * _ROUNDING * np.sqrt(squares) + np.sqrt(matrix.shape[1]) * (small_weight + small_step * scales)
    share = (_COLUMNS + 8) * _ROUNDING
    least = (norms * (1 + share) + wrong).min(axis=0)
    return np.asarray(~(norms * (1 - share) - wrong > least))


def _sum_squares(weights: NDArray[np.float32], inverse: NDArray[np.float32], roots: NDArray[np.float32]) -> _Floats:
    """Weighted squares [C,O] of what ``weights`` [O,K] are apart from the grids, in steps of each."""
    sums = np.zeros(inverse.shape[:2])
    steps, apart = np.empty_like(weights), np.empty_like(weights)
    for row, factor in zip(sums, inverse, strict=True):
        np.multiply(weights, factor, out=apart)
        np.rint(apart, out=steps)
        np.clip(steps, -INT8_MAX, INT8_MAX, out=steps)
        apart -= steps
        apart *= roots
        row[:] = np.einsum("ij,ij->i", apart, apart)
    return sums
