"""The largest magnitude of every channel: what channel equalisation is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.calibration.collect import open_session, run_batch
from trt_facefusion.types import Feeds, Progress, silent

STAGE = "channels"


def channel_amax(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Feeds], *, progress: Progress = silent
) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude [C] of each channel of ``tensors`` (activations [N,C,H,W]) over all ``batches``.

    A maximum does not depend on the order of the batches.

    Raises:
        ModelError: as `collect`.
    """
    names = list(dict.fromkeys(tensors))
    inputs = [value.name for value in model.graph.input if value.name in names]
    tapped = [name for name in names if name not in inputs]
    session = open_session(model, tapped, None)
    peaks: dict[str, NDArray[np.float32]] = {}
    for done, feeds in enumerate(batches, 1):
        for name, value in run_batch(session, inputs, tapped, feeds).items():
            peak = np.abs(value).max(axis=(0, 2, 3)).astype(np.float32)
            peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak
        progress(STAGE, done, 0)
    return peaks
