"""How figures of pictures are called and written in tables."""

from __future__ import annotations

from collections.abc import Iterator

from trt_facefusion.engine.store.manifest import StoredAccuracy
from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.accuracy.metric import Figure, Unit
from trt_facefusion.evaluation.accuracy.metrics import PSNR_CAP_DB
from trt_facefusion.evaluation.accuracy.registry import METRICS, describe_faces


def label_figure(figure: Figure) -> str:
    """A figure's name, with its unit where the number alone does not show it."""
    return f"{figure.label}, dB" if figure.unit is Unit.DECIBEL else figure.label


def label_with_faces(figure: Figure) -> str:
    """The name where the figures of all faces and of the worst one stand in one column."""
    return label_figure(figure) + describe_faces(figure)


def format_figure(figure: Figure, measured: float | None) -> str:
    """A value of ``figure``; a dash where it was not measured."""
    if measured is None:
        return "-"
    if figure.unit is Unit.SHARE:
        return f"{measured:.3%}"
    return format_decibels(measured) if figure.unit is Unit.DECIBEL else f"{measured:.4f}"


def list_judges(judged: StoredAccuracy | Accuracy) -> Iterator[str]:
    """Of each alternative metric that measured, what exactly it was."""
    of = {metric.name: metric for metric in METRICS if metric.family is not None}
    for name, described in judged.judged_by.items():
        if name in of:
            yield f"{of[name].figures[0].label}: {described}"


def format_decibels(psnr_db: float | None) -> str:
    """A PSNR; the one of equal pictures is capped."""
    if psnr_db is None:
        return "-"
    return "exact" if psnr_db >= PSNR_CAP_DB else f"{psnr_db:.1f}"


def format_number(number: float | None, form: str) -> str:
    """A number in a format of Python's; a dash where there is none."""
    return "-" if number is None else format(number, form)
