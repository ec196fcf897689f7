"""The report of a build: one HTML page from its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trt_facefusion.build.report_data import RunRecord
from trt_facefusion.build.report_facts import EngineFacts, Limits, RunFacts, TensorFacts
from trt_facefusion.engine.store.manifest import CalibrationRecord, Fallback
from trt_facefusion.report import charts
from trt_facefusion.report.images import amplify_difference, choose_amplification, encode_data_uri
from trt_facefusion.report.pages import load_templates
from trt_facefusion.report.svg import dumps

_COLUMNS = {"reference": "FP32", "fp16": "FP16", "int8": "INT8"}
_EXACT_DB = 100.0


def render_page(record: RunRecord) -> str:
    """The page as HTML; pictures, charts and styles are inside of it."""
    facts = record.shown
    environment = load_templates()
    environment.filters |= {"size": _format_size, "percent": _format_percent, "number": _format_number}
    searches = [engine.search for engine in facts.engines if engine.search is not None]
    search = searches[0] if searches else None
    front = (
        dumps(charts.draw_pareto([asdict(p) for p in search.points])) if search is not None and search.points else None
    )
    return environment.get_template("page.html").render(
        run=facts,
        engines=[_describe_engine(engine, facts) for engine in facts.engines],
        fallbacks=_list_fallbacks(facts.engines),
        warnings=list(dict.fromkeys(text for engine in facts.engines for text in engine.manifest.warnings)),
        front=front,
        search=search,
        plan=_describe_plan(facts.engines),
        tensors=[_describe_tensor(tensor) for tensor in facts.tensors],
        gallery=_make_gallery(record, facts),
    )


def _describe_engine(engine: EngineFacts, facts: RunFacts) -> dict[str, Any]:
    m = engine.manifest
    psnr, kernels = m.accuracy.psnr_db, m.int8_kernels
    return {
        "asked": engine.requested,
        "name": m.precision,
        "fell_back": engine.requested != m.precision,
        "up_to_date": engine.up_to_date,
        "folder": engine.folder,
        "manifest": m,
        "limits": _describe_limits(facts.limits.get(m.precision)),
        "psnr": "not measured" if psnr is None else "exact" if psnr >= _EXACT_DB else f"{psnr:.1f} dB",
        "kernels": f"{kernels.real} of {kernels.planned}" if kernels.planned else "none planned",
        "missing": kernels.missing,
        "calibration": m.inputs.settings.calibration or CalibrationRecord(),
    }


def _describe_limits(limits: Limits | None) -> dict[str, str]:
    """The limits behind a verdict, by the name of their figure; nothing where none was set or they are not known."""
    if limits is None:
        return {}
    limit_of = {
        "ssim_drop": (limits.max_ssim_drop, _format_percent, "at most"),
        "ssim_drop_worst": (limits.max_ssim_drop_worst, _format_percent, "at most"),
        "perceptual": (limits.max_perceptual, _format_number, "at most"),
        "identity_cosine": (limits.min_identity, _format_number, "at least"),
    }
    return {name: f"{word} {write(value)}" for name, (value, write, word) in limit_of.items() if value is not None}


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


def _format_percent(share: float | None, digits: int = 1) -> str:
    return "not measured" if share is None else f"{100 * share:.{digits}f} %"


def _format_number(value: float | None, digits: int = 4) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"
