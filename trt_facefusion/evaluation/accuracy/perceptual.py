"""A perceptual distance from the features of a trained network."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.evaluation.accuracy.metric import Figure, Limit, Metric, PerFace, Pictures, mean
from trt_facefusion.faces.embedder import open_embedder_session

if TYPE_CHECKING:
    import onnxruntime

MODEL = Path(__file__).resolve().parents[2] / "data" / "squeezenet11_caffe_features.onnx"
TAPS = ("feat1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")
BGR_MEANS = (104.006, 116.669, 122.679)
BATCH_PIXELS = 8 * 256**2
FAMILY = "perceptual"
"""Perceptual distances: one is measured, unless a limit speaks of another."""


class PerceptualDistance:
    """Uncalibrated distance between SqueezeNet 1.1 features. This is NOT LPIPS: its figures compare with no paper's.

    It is built as LPIPS is (R. Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric",
    CVPR 2018): features of seven layers, each position scaled to unit length over channels, squared difference summed
    over channels, mean over positions. But LPIPS then weighs channels as people judged, and uses other weights; here
    all channels weigh the same and the seven layers are averaged. It rises with noise, blur and JPEG artefacts, and is
    0 for equal pictures.
    """

    name = "SqueezeNet feature distance (uncalibrated, not LPIPS)"

    def __call__(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """The distance [N] between pictures [N,H,W,3] in [0,1]; sides of at least 32 px."""
        if reference.shape != candidate.shape:
            raise ValueError(f"pictures differ in shape: {reference.shape} and {candidate.shape}")
        parts = [np.zeros(0)]
        batch = max(1, BATCH_PIXELS // max(1, reference.shape[1] * reference.shape[2]))
        for start in range(0, len(reference), batch):
            part = slice(start, start + batch)
            taps = zip(self._extract_features(reference[part]), self._extract_features(candidate[part]), strict=True)
            per_tap = [((a - b) ** 2).sum(axis=1).mean(axis=(1, 2)) for a, b in taps]
            parts.append(np.mean(per_tap, axis=0))
        return np.concatenate(parts).astype(np.float64)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_embedder_session(MODEL)

    def _extract_features(self, pictures: Pictures) -> list[NDArray[np.float32]]:
        """Unit-length features [N,C,h,w] of each tap."""
        bgr = pictures[..., ::-1].astype(np.float32) * 255 - np.array(BGR_MEANS, np.float32)
        outputs = self._session.run(TAPS, {"image": np.ascontiguousarray(bgr.transpose(0, 3, 1, 2))})
        return [tap / (np.sqrt((tap * tap).sum(axis=1, keepdims=True)) + 1e-10) for tap in outputs]


class Perceptual(Metric):
    """The mean of `PerceptualDistance`."""

    name = "perceptual"
    figures = (
        Figure(
            "perceptual",
            "SqueezeNet distance",
            mean,
            alternative=True,
            limit=Limit(
                "max_perceptual",
                "the SqueezeNet distance",
                "INT8: distance of bundled SqueezeNet features at most (uncalibrated, not LPIPS).",
                least=0.0,
                flag="--max-squeezenet",
            ),
        ),
    )
    least_side_px = 32
    family = FAMILY
    preference = 2

    @cached_property
    def _distance(self) -> PerceptualDistance:
        return PerceptualDistance()

    @property
    def described(self) -> str:
        """The network behind it."""
        return PerceptualDistance.name

    def per_face(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """See `PerceptualDistance`."""
        return self._distance(reference, candidate)
