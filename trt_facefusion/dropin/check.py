"""The drop-in file as the tools open it, with onnxruntime's default session options, against the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_facefusion.errors import ModelError
from trt_facefusion.evaluation.profiling.inputs import draw_samples
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.presets import ImageOutput, Preset
from trt_facefusion.model.presets.fit import cast
from trt_facefusion.model.sessions import open_default_session
from trt_facefusion.types import Array, Feeds

STEP = 1 / 255
"""The smallest difference that a picture of 8 bits can show."""
_SAMPLES = 4


@dataclass(frozen=True)
class Difference:
    """The largest difference of a pixel, 0..1, and of the mean over samples; ``runtime`` is onnxruntime's version."""

    largest: float
    mean: float
    samples: int
    runtime: str

    @property
    def visible(self) -> bool:
        """Whether an 8-bit picture may differ by more than one step."""
        return self.largest > STEP


def measure_difference(model: OpenedModel, preset: Preset, dropin: bytes) -> Difference:
    """How far the pictures of the file are from the engine's, on samples of the range that it is fed with.

    An engine that needs a GPU is stood in for by its typed graph, with the rounding of FP16.

    Raises:
        ModelError: onnxruntime refuses the file, or a picture is not finite.
    """
    import onnxruntime as ort

    session = _open_default(dropin)
    with model.open_runner(stand_in=model.needs_gpu) as runner:
        batch = _find_batch(session)
        feeds = draw_samples(runner.inputs, preset, batch, _SAMPLES)
        names = [output.name for output in session.get_outputs()]
        pairs = [(dict(runner.infer(feed)), dict(zip(names, _run(session, feed), strict=True))) for feed in feeds]
    differences = [np.abs(_decode(preset.output, a) - _decode(preset.output, b)) for a, b in pairs]
    if not all(np.isfinite(difference).all() for difference in differences):
        raise ModelError(
            "the engine, or the file in onnxruntime's default session, gives NaN or infinite pictures",
            "export another precision of the model",
        )
    largest, mean = max(d.max() for d in differences), np.mean([d.mean() for d in differences])
    return Difference(float(largest), float(mean), len(pairs), str(ort.__version__))


def _open_default(file: bytes) -> Any:
    import onnxruntime as ort

    try:
        return open_default_session(file)
    except Exception as error:  # onnxruntime has one exception type per failure and no common base
        raise ModelError(
            f"onnxruntime {ort.__version__} does not open the drop-in file: {' '.join(str(error).split())}",
            "export another precision of the model",
        ) from error


def _find_batch(session: Any) -> int:
    first = session.get_inputs()[0].shape[0]
    return first if isinstance(first, int) else 1


def _run(session: Any, feeds: Feeds) -> Sequence[Array]:
    kinds = {value.name: _NUMPY[value.type] for value in session.get_inputs()}
    result: Sequence[Array] = session.run(None, {name: cast(feeds[name], kind, name) for name, kind in kinds.items()})
    return result


_NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def _decode(picture: ImageOutput, outputs: dict[str, Array]) -> Array:
    """What an 8-bit picture can show of it."""
    pixels: Array = picture.decode(outputs[str(picture.name)])
    return pixels.clip(0, 1)
