"""How figures of pictures are called and written in tables."""

from __future__ import annotations

from trt_facefusion.evaluation.accuracy.metric import Figure, Unit
from trt_facefusion.evaluation.accuracy.metrics import PSNR_CAP_DB
from trt_facefusion.evaluation.accuracy.registry import told_faces


def label(figure: Figure) -> str:
    """A figure's name, with its unit where the number alone does not show it."""
    return f"{figure.label}, dB" if figure.unit is Unit.DECIBEL else figure.label


def full_label(figure: Figure) -> str:
    """The name where the figures of all faces and of the worst one stand in one column."""
    return label(figure) + told_faces(figure)


def written(figure: Figure, measured: float | None) -> str:
    """A value of ``figure``; a dash where it was not measured."""
    if measured is None:
        return "-"
    if figure.unit is Unit.SHARE:
        return f"{measured:.3%}"
    return decibels(measured) if figure.unit is Unit.DECIBEL else f"{measured:.4f}"


def decibels(psnr_db: float | None) -> str:
    """A PSNR; the one of equal pictures is capped."""
    if psnr_db is None:
        return "-"
    return "exact" if psnr_db >= PSNR_CAP_DB else f"{psnr_db:.1f}"
