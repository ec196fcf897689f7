"""All picture metrics. What measures, stores, shows or limits figures goes through this list, in its order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from trt_facefusion.evaluation.accuracy.identity import IdentityCosine
from trt_facefusion.evaluation.accuracy.lpips import Lpips, StLpips
from trt_facefusion.evaluation.accuracy.metric import Figure, Limit, Metric, Tools
from trt_facefusion.evaluation.accuracy.metrics import Psnr, Ssim
from trt_facefusion.evaluation.accuracy.perceptual import FAMILY, Perceptual

METRICS: tuple[type[Metric], ...] = (
    Ssim,
    Psnr,
    Perceptual,
    IdentityCosine,
    StLpips,
    Lpips,
)


def list_figures() -> tuple[Figure, ...]:
    """The figures of all metrics, in the order of JSON."""
    return tuple(figure for metric in METRICS for figure in metric.figures)


def list_shown_figures(first: Sequence[str] = (), *measured: Mapping[str, float | None]) -> list[Figure]:
    """The figures that people are shown: those with the keys ``first`` come first, in that order.

    Where what was ``measured`` is told, alternatives that nobody measured are left out.
    """
    shown = {figure.key: figure for figure in list_figures() if figure.shown}
    unmeasured = {
        key
        for key, figure in shown.items()
        if measured and figure.alternative and all(figures.get(key) is None for figures in measured)
    }
    return [shown[key] for key in dict.fromkeys((*first, *shown)) if key not in unmeasured]


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


def open_metrics(tools: Tools, side_px: int | None = None, limit_names: Collection[str] = ()) -> tuple[Metric, ...]:
    """The metrics that can measure with ``tools``, and pictures of ``side_px`` where that is known.

    Of a family it is the preferred one, and those that ``limit_names`` speak of.
    """
    able = [
        metric
        for metric in METRICS
        if metric.can_measure(tools) and (side_px is None or side_px >= metric.least_side_px)
    ]
    return tuple(
        metric(tools)
        for metric in able
        if metric.family is None or metric is _prefer(able, metric.family) or _is_limited(metric, limit_names)
    )


def open_limited(limit_names: Collection[str], tools: Tools) -> tuple[Metric, ...]:
    """SSIM, and the metrics that ``limit_names`` speak of: others would take time for nothing."""
    return tuple(
        metric
        for metric in open_metrics(tools, limit_names=limit_names)
        if isinstance(metric, Ssim) or _is_limited(type(metric), limit_names)
    )


def find_perceptual(tools: Tools) -> tuple[Figure, Limit]:
    """The perceptual distance that is measured with ``tools``, and its limit: what ``--max-lpips`` speaks of."""
    metric = _prefer([metric for metric in METRICS if metric.can_measure(tools)], FAMILY)
    return next((figure, figure.limit) for figure in metric.figures if figure.limit is not None)


def require_preferred(tools: Tools) -> None:
    """Raise `BadInputError` or `ModelError` where the perceptual distance that ``tools`` ask for lacks a file."""
    _prefer([metric for metric in METRICS if metric.can_measure(tools)], FAMILY).require(tools)


def require_limited(limit_names: Collection[str], tools: Tools) -> dict[str, str]:
    """Digests of the files behind metrics that ``limit_names`` speak of, by the metric's name.

    Raises:
        BadInputError, ModelError: one of these metrics cannot measure.
    """
    digests = {metric.name: metric.require(tools) for metric in METRICS if _is_limited(metric, limit_names)}
    return {name: digest for name, digest in digests.items() if digest}


def _prefer(metrics: Sequence[type[Metric]], family: str) -> type[Metric]:
    return min((metric for metric in metrics if metric.family == family), key=lambda metric: metric.preference)


def _is_limited(metric: type[Metric], limit_names: Collection[str]) -> bool:
    return any(figure.limit is not None and figure.limit.name in limit_names for figure in metric.figures)
