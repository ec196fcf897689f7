"""The report of a build: one HTML page from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trt_facefusion.build.report_facts import EngineFacts, PredictedFacts, RunFacts, TensorFacts
from trt_facefusion.build.run_record import RunRecord
from trt_facefusion.engine.store.manifest import CalibrationRecord, Fallback, StoredAccuracy
from trt_facefusion.evaluation.accuracy.metric import Figure, Unit
from trt_facefusion.evaluation.accuracy.metrics import PSNR_CAP_DB
from trt_facefusion.evaluation.accuracy.registry import describe_faces, list_shown_figures
from trt_facefusion.report import charts
from trt_facefusion.report.images import amplify_difference, choose_amplification, encode_data_uri
from trt_facefusion.report.pages import load_templates
from trt_facefusion.report.svg import dumps

_COLUMNS = {"reference": "FP32", "fp16": "FP16", "int8": "INT8"}
_FIRST_FIGURES = ("ssim_drop", "ssim_drop_worst", "psnr_db", "identity_cosine")


def render_page(record: RunRecord) -> str:
    """The page as HTML; pictures, charts and styles are inside of it."""
    facts = record.shown
    environment = load_templates()
    environment.filters |= {
        "size": _format_size,
        "percent": _format_percent,
        "number": _format_number,
        "time": _format_time,
    }
    searches = [engine.search for engine in facts.engines if engine.search is not None]
    search = searches[0] if searches else None
    front = None
    if search is not None and search.points:
        front = dumps(charts.draw_pareto([asdict(p) for p in search.points], search.objective))
    return environment.get_template("page.html").render(
        run=facts,
        engines=[_describe_engine(engine, facts) for engine in facts.engines],
        fallbacks=_list_fallbacks(facts.engines),
        warnings=list(dict.fromkeys(text for engine in facts.engines for text in engine.manifest.warnings)),
        front=front,
        search=search,
        timed=search is not None and all(point.predicted_ms is not None for point in search.points),
        plan=_describe_plan(facts.engines),
        tensors=[_describe_tensor(tensor) for tensor in facts.tensors],
        predicted=None if facts.predicted is None else _describe_predicted(facts.predicted),
        gallery=_make_gallery(record, facts),
    )


def _describe_engine(engine: EngineFacts, facts: RunFacts) -> dict[str, Any]:
    m = engine.manifest
    kernels, judged = m.int8_kernels, m.judged
    return {
        "asked": engine.requested,
        "name": m.precision,
        "fell_back": engine.requested != m.precision,
        "up_to_date": engine.up_to_date,
        "folder": engine.folder,
        "manifest": m,
        "judged": judged,
        "figures": _list_figures(judged, facts.limits.get(m.precision, {}), facts.swaps),
        "kernels": f"{kernels.real} of {kernels.planned}" if kernels.planned else "none planned",
        "missing": kernels.missing,
        "calibration": m.inputs.settings.calibration or CalibrationRecord(),
    }


def _list_figures(
    judged: StoredAccuracy, limits: Mapping[str, float | None], swaps: bool
) -> list[tuple[str, str, str]]:
    """What is told of the pictures: name, figure, and the limit behind the verdict (empty where none is known)."""
    rows = []
    for figure in list_shown_figures(_FIRST_FIGURES, judged.figures):
        measured = judged.figures.get(figure.key)
        limit = limits.get(figure.limit.name) if figure.limit is not None else None
        if limit is None and figure.of_swaps and (measured is None or not swaps):
            continue
        allowed = (
            "" if figure.limit is None or limit is None else f"{figure.limit.bound} {_format_figure(figure, limit, 1)}"
        )
        rows.append((figure.label + describe_faces(figure), _format_figure(figure, measured), allowed))
    return rows


def _format_figure(figure: Figure, measured: float | None, digits: int = 3) -> str:
    """A figure; ``digits`` are those of a per cent."""
    if figure.unit is Unit.SHARE:
        return _format_percent(measured, digits)
    if figure.unit is Unit.NUMBER or measured is None:
        return _format_number(measured)
    return "exact" if measured >= PSNR_CAP_DB else f"{measured:.1f} dB"


def _list_fallbacks(engines: Sequence[EngineFacts]) -> list[Fallback]:
    return list(dict.fromkeys(step for engine in engines for step in engine.manifest.fallback))


def _describe_plan(engines: Sequence[EngineFacts]) -> dict[str, Any] | None:
    """The plan of the cheapest engine: its layers that multiply, and how often each reason occurs among the others."""
    planned = [engine for engine in engines if engine.plan]
    if not planned:
        return None
    rows = [asdict(row) for row in planned[0].plan]
    total = sum(row["macs"] for row in rows) or 1
    layers = [row | {"share": row["macs"] / total} for row in rows if row["macs"]]
    return {
        "precision": planned[0].manifest.precision,
        "strip": dumps(charts.draw_plan_strip(rows)),
        "layers": layers,
        "others": len(rows) - len(layers),
    }


def _describe_predicted(predicted: PredictedFacts) -> dict[str, Any]:
    """Predicted times of all precisions: by what the kernels are bound by, and by what they do."""
    times = {name.upper(): time for name, time in predicted.times.items()}
    bounds = {name: dict(time.by_bound) for name, time in times.items()}
    kinds = {name: dict(time.by_kind) for name, time in times.items()}
    return {
        "title": predicted.title,
        "times": times,
        "fitted": any(time.fitted for time in times.values()),
        "verdict": predicted.int8_does_not_pay,
        "by_bound": dumps(charts.draw_times(bounds, "Predicted time by what bounds it")),
        "by_kind": dumps(charts.draw_times(kinds, "Predicted time by kind of kernel")),
    }


def _describe_tensor(tensor: TensorFacts) -> dict[str, Any]:
    label = f"Histogram of {tensor.name}: amax {tensor.amax:.4g} of {tensor.limit:.4g}"
    return {**asdict(tensor), "chart": dumps(charts.draw_histogram(tensor.counts, tensor.limit, tensor.amax, label))}


def _make_gallery(record: RunRecord, facts: RunFacts) -> dict[str, Any] | None:
    described, pictures = facts.gallery, record.pictures
    if not described.faces:
        return None
    columns = {name: title for name, title in _COLUMNS.items() if name in pictures}
    apart = [name for name in ("fp16", "int8") if name in pictures]
    factor = choose_amplification(pictures["reference"], [pictures[name] for name in apart]) if apart else 1
    inputs = {"identity": "source", "target": "target"} if facts.swaps else {"target": "target"}
    faces = []
    for index, file in enumerate(described.faces):
        shown = [(title, encode_data_uri(pictures[name][index])) for title, name in inputs.items()]
        shown += [(title, encode_data_uri(pictures[name][index])) for name, title in columns.items()]
        for name in apart:
            map_ = amplify_difference(pictures["reference"][index], pictures[name][index], factor)
            shown.append((f"FP32 \u2212 {_COLUMNS[name]}, \u00d7{factor}", encode_data_uri(map_)))
        drops = {_COLUMNS[name]: described.ssim_drop[name][index] for name in apart}
        faces.append({"file": file, "pictures": shown, "drops": drops})
    return {"worst": faces[: described.worst], "ordinary": faces[described.worst :], "factor": factor}


def _format_size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:.2f} MB"


def _format_time(time_ms: float | None) -> str:
    return "unknown" if time_ms is None else f"{time_ms:.4g} ms"


def _format_percent(share: float | None, digits: int = 1) -> str:
    return "not measured" if share is None else f"{100 * share:.{digits}f} %"


def _format_number(number: float | None, digits: int = 4) -> str:
    return "not measured" if number is None else f"{number:.{digits}f}"
