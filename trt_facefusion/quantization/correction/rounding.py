"""Weights rounded one column after another, each passing its error on to those that are not rounded yet.

Source: E. Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained transformers", ICLR
2023 (their blocks, and their order by the diagonal). Here the second moments are centred: the bias takes up the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.weight_correction import CorrectableLayer
from trt_facefusion.types import Array

MAX_COLUMNS = 4608
"""Layers with more columns than 512 channels times 3x3 are rounded to the nearest: their inverse takes minutes."""

_DAMPING = 0.01
_BLOCK = 128
_Floats = NDArray[np.float64]


class InputCovariance:
    """The covariance [K,K] of what a layer's columns are multiplied with, from samples of its output positions."""

    def __init__(self, layer: CorrectableLayer) -> None:
        columns = layer.matrix.shape[1]
        self.layer = layer
        self._products = np.zeros((columns, columns))
        self._sums = np.zeros(columns)
        self._origin = np.zeros(columns)
        self._count = 0

    def add(self, quantised: NDArray[np.float32], positions: int) -> None:
        """Take quantised inputs at ``positions`` of their output positions at most, drawn with a fixed seed."""
        rows, sample = np.empty((0, 0)), np.empty(0, np.int64)
        for columns, values in self.layer.columns(quantised):
            if not len(sample):
                available = values.shape[1]
                sample = np.sort(np.random.default_rng(0).permutation(available)[:positions])
                rows = np.empty((len(self._sums), len(sample)))
            rows[columns] = values[:, sample]
        if not self._count:
            self._origin = rows.mean(1)
        # About a point near the mean, where what varies little beside a large mean loses no digits.
        rows -= self._origin[:, None]
        self._products += rows @ rows.T
        self._sums += rows.sum(1)
        self._count += rows.shape[1]

    def matrix(self) -> _Floats:
        """The covariance."""
        means = self._sums / self._count
        return np.asarray(self._products / self._count - np.outer(means, means))


def round_weights(layer: CorrectableLayer, scale: Array, covariance: _Floats) -> _Floats:
    """Steps [O,K] of ``scale`` [O] that keep the layer's output nearest to that of its exact weights."""
    order, factor = _factorise(covariance)
    weights = layer.matrix[:, order].copy()
    steps = np.zeros_like(weights)
    step = scale.astype(np.float64)
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        errors = np.zeros((len(weights), stop - start))
        for column in range(start, stop):
            steps[:, column] = np.clip(np.rint(weights[:, column] / step), -INT8_MAX, INT8_MAX)
            error = (weights[:, column] - steps[:, column] * step) / factor[column, column]
            weights[:, column:stop] -= np.outer(error, factor[column, column:stop])
            errors[:, column - start] = error
        weights[:, stop:] -= errors @ factor[start:stop, stop:]
    rounded: _Floats = np.empty_like(steps)
    rounded[:, order] = steps
    return rounded


def _factorise(covariance: _Floats) -> tuple[NDArray[np.intp], _Floats]:
    """Columns by falling variance, and the upper Cholesky factor of the inverse in that order.

    A column that never changes gets a variance of one, so that it is rounded for itself.
    """
    damped = covariance.copy()
    variances = np.diag(damped).copy()
    dead = variances <= 1e-12 * max(variances.max(), 1e-30)
    damped[dead] = 0
    damped[:, dead] = 0
    mean = variances[~dead].mean() if not dead.all() else 1.0
    damped[np.diag_indices_from(damped)] = np.where(dead, 1.0, variances + _DAMPING * mean)
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    return order, np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)
