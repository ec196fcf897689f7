"""Figures of every output of two models, face by face, by Polygraphy's comparison functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from polygraphy.comparator import CosineSimilarityCompareFunc, IterationResult, PsnrCompareFunc, SimpleCompareFunc

from trt_facefusion.engine.runtime.polygraphy import silence
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy.metrics import PSNR_CAP_DB
from trt_facefusion.types import Array

PERCENTILE = 99


@dataclass(frozen=True)
class OutputDifference:
    """How one output of the candidate differs from that of the reference, over ``faces`` faces.

    Absolute errors are in the output's own unit, relative ones are shares of the reference's value. ``max_abs`` and
    ``p99_abs`` are those of the worst face; ``mean_abs``, ``median_abs`` and ``median_rel`` means over faces. The
    peak of ``psnr_db`` is the reference's largest value on that face (Polygraphy's definition); at most `PSNR_CAP_DB`.
    ``nonfinite`` counts faces on which either side has NaN or infinity; they are left out of all other figures, which
    are None where nothing is left.
    """

    name: str
    faces: int
    nonfinite: int
    max_abs: float | None
    mean_abs: float | None
    median_abs: float | None
    p99_abs: float | None
    median_rel: float | None
    p99_rel: float | None
    psnr_db: float | None
    psnr_db_worst: float | None
    cosine: float | None
    cosine_worst: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class OutputComparison:
    """Collects the figures of faces one by one and keeps no tensors."""

    def __init__(self) -> None:
        self._figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._faces: dict[str, int] = defaultdict(int)
        self._nonfinite: dict[str, int] = defaultdict(int)

    def add(self, reference: Mapping[str, Array], candidate: Mapping[str, Array], faces: int, batch: int) -> None:
        """Compare the outputs of one ``batch`` that both sides have; samples after the first ``faces`` are filling.

        Raises:
            BadInputError: no output is on both sides, or one has another shape there.
        """
        common = [name for name in reference if name in candidate]
        if not common:
            raise BadInputError(
                f"the two have no output in common: {', '.join(reference)} on one side, {', '.join(candidate)} on the "
                "other",
                "compare two engines of the same model",
            )
        for name in common:
            self._add(
                name, _split_samples(reference[name], faces, batch), _split_samples(candidate[name], faces, batch)
            )

    def _add(self, name: str, reference: Sequence[Array], candidate: Sequence[Array]) -> None:
        for a, b in zip(reference, candidate, strict=True):
            if a.shape != b.shape:
                raise BadInputError(
                    f"the output {name!r} is {list(a.shape)} on one side and {list(b.shape)} on the other",
                    "compare two engines of the same model",
                )
            self._faces[name] += 1
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                self._nonfinite[name] += 1
                continue
            for figure, number in _measure_figures(name, a, b).items():
                self._figures[name][figure].append(number)

    def list_differences(self) -> tuple[OutputDifference, ...]:
        """The figures of every output."""
        return tuple(self._summarise(name) for name in self._faces)

    def _summarise(self, name: str) -> OutputDifference:
        by_face = self._figures[name]

        def pool(figure: str, summary: Any) -> float | None:
            return float(summary(by_face[figure])) if by_face[figure] else None

        return OutputDifference(
            name=name,
            faces=self._faces[name],
            nonfinite=self._nonfinite[name],
            max_abs=pool("max_abs", max),
            mean_abs=pool("mean_abs", np.mean),
            median_abs=pool("median_abs", np.mean),
            p99_abs=pool("p99_abs", max),
            median_rel=pool("median_rel", np.mean),
            p99_rel=pool("p99_rel", max),
            psnr_db=pool("psnr_db", np.mean),
            psnr_db_worst=pool("psnr_db", min),
            cosine=pool("cosine", np.mean),
            cosine_worst=pool("cosine", min),
        )


def _split_samples(output: Array, faces: int, batch: int) -> Sequence[Array]:
    """Each face's part of an output; an output without a batch axis counts once for all of them."""
    return list(output[:faces]) if output.ndim and len(output) == batch else [output]


def _measure_figures(name: str, reference: Array, candidate: Array) -> dict[str, float]:
    # Polygraphy's first result is what is measured, its second what relative errors are shares of.
    a, b = IterationResult({name: _widen(reference)}), IterationResult({name: _widen(candidate)})
    with silence(), np.errstate(all="ignore"):
        simple = SimpleCompareFunc(check_error_stat="quantile", error_quantile=PERCENTILE / 100)(b, a)[name]
        psnr = PsnrCompareFunc()(a, b)[name].psnr
        cosine = CosineSimilarityCompareFunc()(a, b)[name].cosine_similarity
    return {
        "max_abs": simple.max_absdiff,
        "mean_abs": simple.mean_absdiff,
        "median_abs": simple.median_absdiff,
        "p99_abs": simple.quantile_absdiff,
        "median_rel": simple.median_reldiff,
        "p99_rel": simple.quantile_reldiff,
        "psnr_db": min(psnr, PSNR_CAP_DB) if not math.isnan(psnr) else 0.0,
        "cosine": cosine,
    }


def _widen(tensor: Array) -> Array:
    """In double precision, so that sums over a picture add no error of their own; never without an axis."""
    return np.atleast_1d(tensor).astype(np.float64)
