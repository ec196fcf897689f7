"""All picture metrics. What measures, stores, shows or limits figures goes through this list, in its order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from trt_facefusion.evaluation.accuracy.identity import IdentityCosine
from trt_facefusion.evaluation.accuracy.metric import Figure, Limit, Metric, Tools
from trt_facefusion.evaluation.accuracy.metrics import Psnr, Ssim
from trt_facefusion.evaluation.accuracy.perceptual import Perceptual

METRICS: tuple[type[Metric], ...] = (
    Ssim,
    Psnr,
    Perceptual,
    IdentityCosine,
)


def list_figures() -> tuple[Figure, ...]:
    """The figures of all metrics, in the order of JSON."""
    return tuple(figure for metric in METRICS for figure in metric.figures)


def list_shown_figures(first: Sequence[str] = ()) -> list[Figure]:
    """The figures that people are shown: those with the keys ``first`` come first, in that order."""
    shown = {figure.key: figure for figure in list_figures() if figure.shown}
    return [shown[key] for key in dict.fromkeys((*first, *shown))]


def describe_faces(figure: Figure) -> str:
    """What is put behind a label where the figures of all faces and of the worst one are told side by side."""
    if figure.of_worst:
        return ", worst face"
    return ", mean" if any(other.key == figure.worst_key for other in list_figures() if other.shown) else ""


def list_limited_figures() -> tuple[Figure, ...]:
    """The figures that can be held to a limit."""
    return tuple(figure for figure in list_figures() if figure.limit is not None)


def iterate_limits() -> Iterator[tuple[Figure, Limit]]:
    """Each limit, with its figure."""
    for figure in list_figures():
        if figure.limit is not None:
            yield figure, figure.limit


def list_exact_figures() -> dict[str, float | None]:
    """The limited figures of pictures that equal the reference, by key."""
    return {figure.key: figure.exact for figure in list_limited_figures()}


def open_metrics(tools: Tools, side_px: int | None = None) -> tuple[Metric, ...]:
    """The metrics that can measure with ``tools``, and pictures of ``side_px`` where that is known."""
    return tuple(
        metric(tools)
        for metric in METRICS
        if metric.can_measure(tools) and (side_px is None or side_px >= metric.least_side_px)
    )


def open_limited(limit_names: Collection[str], tools: Tools) -> tuple[Metric, ...]:
    """SSIM, and the metrics that ``limit_names`` speak of: others would take time for nothing."""
    return tuple(
        metric for metric in open_metrics(tools) if isinstance(metric, Ssim) or _is_limited(metric, limit_names)
    )


def _is_limited(metric: Metric, limit_names: Collection[str]) -> bool:
    return any(figure.limit is not None and figure.limit.name in limit_names for figure in metric.figures)
