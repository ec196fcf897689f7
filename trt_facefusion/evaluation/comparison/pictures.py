"""Judges the pictures of two models: B's against A's, and both against the file that an engine was built from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import ModelError
from trt_facefusion.evaluation.accuracy.judge import Accuracy, judge
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import open_metrics
from trt_facefusion.evaluation.comparison.handed_in import AgainstFile, compare_with_original, find_original
from trt_facefusion.evaluation.comparison.pair import ModelPair
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference.feeder import list_input_shapes
from trt_facefusion.inference.original import require_finite_pictures
from trt_facefusion.types import Note, Progress

Pictures = NDArray[np.float32]


def judge_pictures(
    pair: ModelPair, reference: Pictures, candidate: Pictures, progress: Progress, lpips_backbone: Path | None = None
) -> Accuracy:
    """Compare B's pictures [N,H,W,3] with those of A; by the classic LPIPS, too, where there is a backbone.

    Raises:
        ModelError: A, the reference, gives NaN or infinity.
    """
    broken = int((~np.isfinite(reference).all(axis=(1, 2, 3))).sum())
    if broken:
        raise ModelError(
            f"{pair.a.opened.label}, the reference, gives NaN or infinity on {broken} of {len(reference)} faces",
            "name a sound model first: A is what B is held against",
        )
    progress("judge", 0, 0)
    height, width = reference.shape[1:3]
    tools = Tools(pair.embedder, pair.contract.preset.template if height == width else None, lpips_backbone)
    return judge(reference, candidate, open_metrics(tools, min(height, width)))


def compare_with_file(
    pair: ModelPair, faces: FaceSet, a: Pictures, b: Pictures, progress: Progress, note: Note
) -> AgainstFile | None:
    """Both models' pictures against those of the file that the first stored one of them was built from."""
    shapes = list_input_shapes(pair.contract.preset, pair.embedder.fed_dim)
    for manifest in (model.opened.manifest for model in (pair.a, pair.b)):
        original = None if manifest is None else find_original(manifest, shapes, note)
        if manifest is None or original is None:
            continue
        renderer = pair.make_renderer(pair.make_feeder(faces, fixed=pair.batch.fixed))
        with original.open_runner() as runner:
            pictures = require_finite_pictures(renderer(runner, None, progress, "the file"))
        return compare_with_original(original, manifest, pictures, a, b)
    return None
