"""The report of a build: one HTML page from its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trt_facefusion.pipeline.record import RunRecord
from trt_facefusion.report import charts
from trt_facefusion.report.images import amplification, data_uri, difference

_FOLDER = Path(__file__).parent
_COLUMNS = {"reference": "FP32", "fp16": "FP16", "int8": "INT8"}
_EXACT_DB = 100.0


def render(record: RunRecord) -> str:
    """The page as HTML; pictures, charts and styles are inside of it."""
    facts = record.facts
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"size": _size, "percent": _percent, "number": _number}
    searches = [engine["search"] for engine in facts["engines"] if engine["search"]]
    return environment.get_template("page.html").render(
        run=facts,
        engines=[_engine(engine, facts.get("identity", True)) for engine in facts["engines"]],
        fallbacks=_fallbacks(facts["engines"]),
        warnings=_warnings(facts["engines"]),
        front=Markup(charts.pareto(searches[0]["points"])) if searches and searches[0]["points"] else None,
        search=searches[0] if searches else None,
        plan=_plan(facts["engines"]),
        tensors=[_tensor(tensor) for tensor in facts["tensors"]],
        gallery=_gallery(record),
    )


def _percent_of(digits: int) -> Callable[[float], str]:
    return lambda share: f"{100 * share:.{digits}f} %"


def _engine(engine: Mapping[str, Any], identity: bool) -> dict[str, Any]:
    m = engine["manifest"]
    accuracy, kernels = m["accuracy"], m["int8_kernels"]
    psnr = accuracy["psnr_db"]
    return {
        "asked": engine["requested"],
        "name": m["precision"],
        "fell_back": engine["requested"] != m["precision"],
        "up_to_date": engine["up_to_date"],
        "folder": engine["folder"],
        "manifest": m,
        "psnr": "exact" if psnr >= _EXACT_DB else f"{psnr:.1f} dB",
        "kernels": f"{kernels['real']} of {kernels['planned']}" if kernels["planned"] else "none planned",
        "missing": kernels["missing"],
        "limits": (limits := _limits(m["inputs"]["settings"].get("limits"))),
        "identity": identity or any("identity" in limit for limit in limits),
        "prepared": accuracy.get("prepared"),
        "calibration": m["inputs"]["settings"].get("calibration") or {},
    }


_LIMITS = {
    "max_ssim_drop": ("SSIM drop, mean", "at most", _percent_of(3)),
    "max_ssim_drop_worst": ("SSIM drop, worst face", "at most", _percent_of(3)),
    "max_perceptual": ("perceptual distance", "at most", "{:.4g}".format),
    "min_identity": ("identity cosine", "at least", "{:.4g}".format),
}


def _limits(limits: Any) -> list[str]:
    """What "passed" means: each limit of the gate as words; none in records of earlier versions."""
    if not isinstance(limits, Mapping):
        return []
    found = [(what, how, shown, limits.get(name)) for name, (what, how, shown) in _LIMITS.items()]
    words = [f"{what} {how} {shown(value)}" for what, how, shown, value in found if isinstance(value, int | float)]
    spread = limits.get("spread_range")
    if isinstance(spread, list | tuple) and len(spread) == 2:
        words.append(f"each face spread {spread[0]} to {spread[1]} times as far as the reference")
    return words


def _fallbacks(engines: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    steps: list[Mapping[str, Any]] = []
    for engine in engines:
        steps += [step for step in engine["manifest"]["fallback"] if step not in steps]
    return steps


def _warnings(engines: list[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(text for engine in engines for text in engine["manifest"]["warnings"]))


def _plan(engines: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The plan of the cheapest engine: its layers that multiply, and how often each reason occurs among the others."""
    planned = [engine for engine in engines if engine["plan"]]
    if not planned:
        return None
    rows = planned[0]["plan"]
    total = sum(row.get("macs", 0) for row in rows) or 1
    layers = [row | {"share": row["macs"] / total} for row in rows if row.get("macs")]
    return {
        "precision": planned[0]["manifest"]["precision"],
        "strip": Markup(charts.strip(rows)),
        "layers": layers,
        "others": len(rows) - len(layers),
    }


def _tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    label = f"Histogram of {tensor['name']}: amax {tensor['amax']:.4g} of {tensor['limit']:.4g}"
    chart = charts.histogram(tensor["counts"], tensor["limit"], tensor["amax"], label)
    return {**tensor, "chart": Markup(chart)}


def _gallery(record: RunRecord) -> dict[str, Any] | None:
    described, pictures = record.facts["gallery"], record.pictures
    if not described["faces"]:
        return None
    columns = {name: title for name, title in _COLUMNS.items() if name in pictures}
    apart = [name for name in ("fp16", "int8") if name in pictures]
    factor = amplification(pictures["reference"], [pictures[name] for name in apart]) if apart else 1
    faces = []
    for index, file in enumerate(described["faces"]):
        shown = [("identity", data_uri(pictures["source"][index]))] if record.facts.get("identity", True) else []
        shown.append(("target", data_uri(pictures["target"][index])))
        shown += [(title, data_uri(pictures[name][index])) for name, title in columns.items()]
        for name in apart:
            map_ = difference(pictures["reference"][index], pictures[name][index], factor)
            shown.append((f"FP32 \u2212 {_COLUMNS[name]}, \u00d7{factor}", data_uri(map_)))
        drops = {_COLUMNS[name]: described["ssim_drop"][name][index] for name in apart}
        faces.append({"file": file, "pictures": shown, "drops": drops})
    return {"worst": faces[: described["worst"]], "ordinary": faces[described["worst"] :], "factor": factor}


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:.2f} MB"


def _percent(share: float | None, digits: int = 1) -> str:
    return "not measured" if share is None else f"{100 * share:.{digits}f} %"


def _number(value: float | None, digits: int = 4) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"
