"""Judges what is tuned by pictures of calibration faces: those that are verified on must not choose anything."""

from __future__ import annotations

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.sampling import spread


def open_calibration_evaluator(inputs: BuildInputs, count: int) -> PictureEvaluator:
    """Holds pictures of at most ``count`` calibration faces, evenly spread, against the prepared FP32 graph's.

    Raises:
        ModelError: those hold NaN or infinity.
    """
    faces = inputs.faces.calibration
    indices = spread(len(faces), count)
    reference = inputs.paint_reference(indices)
    return PictureEvaluator(inputs.network.make_renderer(faces), indices, reference)
