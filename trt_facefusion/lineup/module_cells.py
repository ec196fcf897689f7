"""The variants of a module in words: the columns that terminal and Markdown show alike."""

from __future__ import annotations

from trt_facefusion.lineup.cells import UNKNOWN, describe_publications, format_bytes
from trt_facefusion.lineup.measuring import describe_disturbance
from trt_facefusion.lineup.module_run import ModuleEntry, ModuleLineup

COLUMNS = ("weights", "fastest", "median", "spread", "p99", "of FP32", "error")


def describe_variant(entry: ModuleEntry, fp32_ms: float) -> tuple[str, ...]:
    """The cells of one variant, as in ``COLUMNS``; ``fp32_ms`` is the median of torch in FP32."""
    if entry.latency is None:
        time = UNKNOWN if entry.predicted is None else f"predicted {entry.predicted.total_ms:.3g} ms"
        return (format_bytes(entry.weights_bytes), time, *[UNKNOWN] * 5)
    low, high = min(entry.medians_ms), max(entry.medians_ms)
    return (
        format_bytes(entry.weights_bytes),
        f"{entry.fastest_ms:.3g}",
        f"{entry.latency.p50:.3g}",
        f"{low:.3g}-{high:.3g}",
        f"{entry.latency.p99:.3g}",
        f"{entry.latency.p50 / fp32_ms:.2f}",
        UNKNOWN if entry.error is None else f"{entry.error.relative:.2%}",
    )


def list_rows(lineup: ModuleLineup) -> list[tuple[str, ...]]:
    """Library, precision and `describe_variant` of all that run or are predicted."""
    measured = [entry.latency.p50 for entry in lineup.entries if entry.latency is not None]
    return [
        (entry.library, entry.precision, *describe_variant(entry, measured[0]))
        for entry in lineup.entries
        if entry.latency is not None or entry.predicted is not None
    ]


def list_module_notes(lineup: ModuleLineup) -> list[str]:
    """Reasons and remarks, each with the variants that it is about; what is predicted; what others published."""
    about: dict[str, list[str]] = {}
    for entry in lineup.entries:
        for text in (entry.reason, entry.remark):
            if text:
                about.setdefault(text, []).append(f"{entry.library} {entry.precision}")
    notes = [f"{', '.join(names)}: {text}" for text, names in about.items()]
    gpus = {entry.predicted.gpu for entry in lineup.entries if entry.predicted is not None}
    notes += [f"predicted: by a model of {gpu} at its published rates, not measured" for gpu in sorted(gpus)]
    return notes + describe_publications(lineup.published)


def describe_series(lineup: ModuleLineup) -> str:
    """How times and errors were come by."""
    return (
        f"Measured on {lineup.machine}, batch {lineup.batch}, {lineup.repeats} series of {lineup.rounds} rounds in "
        f"turns in one process, milliseconds a batch; spread: medians of the series; inputs: {lineup.samples}, half "
        f"to calibrate, half to judge; error: root mean square against FP32 in torch, relative to its outputs; "
        f"{lineup.created}.{describe_disturbance(lineup.processor_share)}"
    )
