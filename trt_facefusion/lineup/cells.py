"""A comparison in words: the rows that terminal, Markdown and page show alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trt_facefusion.evaluation.accuracy.metric import Figure, Unit
from trt_facefusion.evaluation.accuracy.metrics import PSNR_CAP_DB
from trt_facefusion.evaluation.accuracy.registry import describe_faces, list_shown_figures
from trt_facefusion.lineup.entry import Entry, Lineup
from trt_facefusion.lineup.measuring import describe_disturbance
from trt_facefusion.lineup.published import Publication

UNKNOWN = "-"
_PERCEPTUAL = "perceptual"
"""The row of whichever perceptual distance judged: what others published there is another one, and is named."""
_FIRST_FIGURES = ("psnr_db", "ssim_drop", "ssim_drop_worst")


def describe_entry(entry: Entry, figures: Sequence[Figure]) -> dict[str, str]:
    """What is shown of an engine, row -> text."""
    return {
        "weights": format_bytes(entry.weights_bytes),
        "engine": format_bytes(entry.engine_bytes),
        "activations": format_bytes(entry.activations_bytes),
        "peak memory": format_bytes(None if entry.timing is None else entry.timing.peak_bytes),
        "latency": _format_latency(entry),
        "fastest": UNKNOWN if entry.timing is None else f"{entry.timing.fastest_ms:.4g} ms",
        "p90, p99": _format_tail(entry),
        "throughput": UNKNOWN if entry.timing is None else f"{entry.timing.throughput_per_s:.4g}/s",
        **{label_figure(figure): format_figure(figure, entry.figures.get(figure.key)) for figure in figures},
        "faces judged": UNKNOWN if entry.faces is None else str(entry.faces),
        "MACs in INT8": UNKNOWN if entry.int8_share is None else f"{entry.int8_share:.1%}",
        "INT8 kernels": entry.int8_kernels,
        "build": UNKNOWN if entry.seconds is None else f"{entry.seconds:.0f} s {entry.effort}".strip(),
    }


def list_figures(lineup: Lineup) -> list[Figure]:
    """The figures of pictures that any of the engines has."""
    return list_shown_figures(_FIRST_FIGURES, *(entry.figures for entry in lineup.entries))


def label_figure(figure: Figure) -> str:
    """A figure's name as a row."""
    return figure.label + describe_faces(figure)


def format_figure(figure: Figure, measured: float | None) -> str:
    """A figure with its unit."""
    if measured is None:
        return UNKNOWN
    if figure.unit is Unit.SHARE:
        return f"{measured:.3%}"
    if figure.unit is Unit.DECIBEL:
        return "exact" if measured >= PSNR_CAP_DB else f"{measured:.1f} dB"
    return f"{measured:.4f}"


def format_bytes(count: int | None) -> str:
    """Bytes for a person."""
    if count is None:
        return UNKNOWN
    return (
        f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"
    )


def _format_latency(entry: Entry) -> str:
    if entry.timing is not None:
        return f"{entry.timing.latency.p50:.4g} ms"
    if entry.predicted is not None:
        return f"predicted {entry.predicted.total_ms:.3g} ms"
    return UNKNOWN


def _format_tail(entry: Entry) -> str:
    if entry.timing is None:
        return UNKNOWN
    return f"{entry.timing.latency.p90:.4g}, {entry.timing.latency.p99:.4g} ms"


def find_published(publications: Sequence[Publication], figures: Sequence[Figure]) -> Mapping[str, str]:
    """What others published beside our rows, FP32 / FP16 / INT8."""
    beside = {"SSIM drop": [label_figure(f) for f in figures if f.key == "ssim_drop"]}
    beside[_PERCEPTUAL] = [label_figure(f) for f in figures if f.alternative]
    return {
        label: (f"{row.figure}: " if row.beside == _PERCEPTUAL else "") + f"{row.fp32} / {row.fp16} / {row.int8}"
        for publication in publications
        for row in publication.rows
        if row.beside
        for label in beside.get(row.beside, [row.beside])
    }


def describe_publications(publications: Sequence[Publication]) -> list[str]:
    """Sources, with the figures that stand beside none of ours."""
    texts = []
    for publication in publications:
        shown = [f"{r.figure} {r.fp32} / {r.fp16} / {r.int8}" for r in publication.rows]
        texts.append(f"published, FP32 / FP16 / INT8 ({publication.source}): {'; '.join(shown)}")
    return texts


def name_entry(entry: Entry) -> str:
    """An engine in a few words."""
    if entry.built is None or entry.built == entry.precision:
        return entry.precision
    return f"{entry.precision} -> {entry.built}"


def list_notes(lineup: Lineup) -> list[str]:
    """Reasons and remarks, each with the engines that it is about, and what measured what."""
    about: dict[str, list[str]] = {}
    for entry in lineup.entries:
        for text in ([entry.reason] if entry.reason else []) + list(entry.remarks):
            about.setdefault(text, []).append(f"{entry.backend} {name_entry(entry)}")
    engines = {f"{entry.backend} {name_entry(entry)}" for entry in lineup.entries if entry.built is not None}
    notes = []
    for text, names in about.items():
        everyone = len(engines) > 1 and engines <= set(names)
        notes.append(f"{'all engines' if everyone else ', '.join(dict.fromkeys(names))}: {text}")
    return notes + _list_sources(lineup)


def _list_sources(lineup: Lineup) -> list[str]:
    """What predicted, what judged, and who published."""
    times = [entry.predicted for entry in lineup.entries if entry.timing is None]
    predicted = {time.gpu: time.fitted for time in times if time is not None}
    notes = [
        f"predicted: by a model of {gpu} {'with fitted factors' if fitted else 'at its published rates'}, not measured"
        for gpu, fitted in predicted.items()
    ]
    judges = {text for entry in lineup.entries for name, text in entry.judged_by.items() if text != name}
    return notes + [f"judged by {text}" for text in sorted(judges)] + describe_publications(lineup.published)


def describe_measuring(lineup: Lineup) -> str:
    """How times were come by."""
    return (
        f"Measured on {lineup.machine}, batch as built, {lineup.rounds} rounds in turns in one process; accuracy "
        f"against what was handed in; {lineup.created}.{describe_disturbance(lineup.processor_share)}"
    )
