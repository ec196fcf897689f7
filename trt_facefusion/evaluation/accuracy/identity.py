"""Whether an engine's faces are still the persons that FP32 makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.evaluation.accuracy.metric import Figure, Limit, Metric, PerFace, Pictures, Tools, lowest, mean
from trt_facefusion.faces.align import fit_templates, warp
from trt_facefusion.faces.embedder import Embedder, Embeddings, normalise_embeddings


def embed_crops(pictures: Pictures, template: str, embedder: Embedder) -> Embeddings:
    """Raw embeddings [N,dim] of crops [N,H,W,3] in [0,1] that are aligned with ``template``.

    Those that are not square were cut from the middle of a square: what is missing of it is filled from their edges.
    """
    height, width = pictures.shape[1:3]
    if height != width:
        rows, columns = (max(height, width) - height, max(height, width) - width)
        around = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
        pictures = np.pad(pictures, around, mode="edge")
    matrix = fit_templates(template, pictures.shape[1], embedder.template, embedder.size)
    chips = np.empty((len(pictures), embedder.size, embedder.size, 3), np.uint8)
    for index, picture in enumerate(pictures):
        pixels: NDArray[np.uint8] = (picture.clip(0, 1) * 255).round().astype(np.uint8)
        chips[index] = warp(pixels, matrix, embedder.size)
    return embedder.embed(chips)


def measure_identity_cosine(reference: Pictures, candidate: Pictures, template: str, embedder: Embedder) -> PerFace:
    """Cosine [N] between the embeddings of two versions of the same crops: 1 where the person is the same."""
    of_reference = normalise_embeddings(embed_crops(reference, template, embedder))
    of_candidate = normalise_embeddings(embed_crops(candidate, template, embedder))
    return np.asarray((of_reference * of_candidate).sum(axis=1), np.float64).clip(-1, 1)


class IdentityCosine(Metric):
    """Whether the faces are still the same persons; takes about 20 ms per face and side."""

    name = "identity_cosine"
    figures = (
        Figure(
            "identity_cosine",
            "identity cosine",
            mean,
            higher_is_better=True,
            exact=1.0,
            limit=Limit(
                "min_identity",
                "the mean identity cosine",
                "INT8: mean identity cosine at least.",
                least=-1.0,
                most=1.0,
            ),
            worst_key="identity_cosine_min",
            of_swaps=True,
        ),
        Figure(
            "identity_cosine_min",
            "identity cosine",
            lowest,
            higher_is_better=True,
            exact=1.0,
            shown=False,
            of_worst=True,
            of_swaps=True,
        ),
    )
    broken = 0.0

    @classmethod
    def can_measure(cls, tools: Tools) -> bool:
        """It takes an embedder, and crops that are aligned with a known template."""
        return tools.embedder is not None and tools.template is not None

    @property
    def described(self) -> str:
        """With the embedder."""
        return "identity" if self.tools.embedder is None else f"identity by {self.tools.embedder.digest}"

    def per_face(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """See `identity_cosine`.

        Raises:
            ValueError: there is no embedder or no template.
        """
        if self.tools.embedder is None or self.tools.template is None:
            raise ValueError("the identity cosine takes an embedder and a template")
        return measure_identity_cosine(reference, candidate, self.tools.template, self.tools.embedder)
