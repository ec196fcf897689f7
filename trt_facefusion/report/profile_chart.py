"""The plot of a profile: one SVG that needs nothing else, or a page around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from trt_facefusion.pipeline.profile import ProfileResult
from trt_facefusion.profiling.layers import Layer
from trt_facefusion.profiling.measure import Point
from trt_facefusion.profiling.result import Profile

LAYERS = 20
_WIDTH, _LEFT, _RIGHT = 880, 60, 20
_PANEL, _ROW = 230, 18
_COLOURS = ("#2563eb", "#d97706")
_OF = {"int8": "#16a34a", "fp16": "#2563eb", "fp32": "#7c3aed", None: "#9ca3af"}
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2937}.head{font-weight:600;font-size:14px}.tick{fill:#6b7280;"
    "font-size:11px}.axis{stroke:#d1d5db}.mid{text-anchor:middle}.end{text-anchor:end}"
)

Scale = Callable[[float], float]


def svg(result: ProfileResult) -> str:
    """Latency by percentile, throughput of the sweeps, and the slowest layers of the first engine."""
    profiles = [result.one] + ([result.other] if result.other is not None else [])
    parts: list[str] = []
    y = 26.0
    parts += _legend(profiles, y)
    y += 20 * len(profiles) + 14
    parts += _latencies(profiles, y)
    y += _PANEL
    half = (_WIDTH - _LEFT - _RIGHT - 60) / 2
    parts += _sweep("faces per second over batch size", [p.batches for p in profiles], y, _LEFT, half)
    flights = [p.flights for p in profiles]
    parts += _sweep("faces per second over inferences in flight", flights, y, _LEFT + half + 60, half)
    y += _PANEL
    for profile in profiles:
        shown = profile.layers[:LAYERS]
        if shown:
            parts += _bars(profile, shown, y)
            y += 44 + _ROW * len(shown) + 12
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 10:.0f}" width="{_WIDTH}" '
        f'height="{y + 10:.0f}" role="img" aria-label="Profile of {escape(result.one.label)}">'
    )
    return f'{head}<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'


def page(result: ProfileResult) -> str:
    """The plot as an HTML page."""
    title = escape(f"Profile of {result.one.label}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        f'<body style="margin:2rem;max-width:60rem">{svg(result)}</body></html>\n'
    )


def _legend(profiles: Sequence[Profile], y: float) -> list[str]:
    rows = []
    for number, profile in enumerate(profiles):
        at = y + 20 * number
        stand_in = " (typed ONNX on the CPU, NOT the engine)" if profile.stand_in else ""
        text = f"{profile.label}{stand_in}: batch {profile.batch}, {profile.device}"
        rows.append(f'<rect x="{_LEFT}" y="{at - 10:.0f}" width="12" height="12" fill="{_COLOURS[number]}"/>')
        rows.append(_text(_LEFT + 18, at, text))
    return rows


def _latencies(profiles: Sequence[Profile], y: float) -> list[str]:
    """Every call, sorted: how long the calls of each percentile took."""
    low = min(min(p.times_ms) for p in profiles)
    high = max(max(p.times_ms) for p in profiles)
    low, high = low - 0.05 * (high - low or low), high + 0.05 * (high - low or high)
    x_of = _scale(0, 100, _LEFT, _WIDTH - _RIGHT)
    y_of = _scale(low, high, y + _PANEL - 60, y + 20)
    parts = [_text(_LEFT, y, "latency of one call by percentile, ms", "head")]
    parts += _y_axis(y_of, low, high, _LEFT, _WIDTH - _RIGHT)
    for percentile in (0, 25, 50, 75, 90, 99):
        parts.append(_text(x_of(percentile), y + _PANEL - 44, f"p{percentile}", "tick mid"))
    for number, profile in enumerate(profiles):
        points = zip(np.linspace(0, 100, len(profile.times_ms)), sorted(profile.times_ms), strict=True)
        line = " ".join(f"{x_of(float(q)):.1f},{y_of(value):.1f}" for q, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{_COLOURS[number]}" stroke-width="2"/>')
    return parts


def _sweep(title: str, sweeps: Sequence[Sequence[Point]], y: float, left: float, width: float) -> list[str]:
    points = [point for sweep in sweeps for point in sweep]
    if not points:
        return []
    places = sorted({point.at for point in points})
    high = 1.1 * max(point.throughput_per_s for point in points)
    x_of = _scale(0, max(len(places) - 1, 1), left + 10, left + width - 10)
    y_of = _scale(0, high, y + _PANEL - 60, y + 20)
    parts = [_text(left, y, title, "head"), *_y_axis(y_of, 0, high, left, left + width)]
    parts += [_text(x_of(number), y + _PANEL - 44, str(at), "tick mid") for number, at in enumerate(places)]
    for number, sweep in enumerate(sweeps):
        at = [(x_of(places.index(point.at)), y_of(point.throughput_per_s)) for point in sweep]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{_COLOURS[number]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_COLOURS[number]}"/>' for x, y in at]
    return parts


def _bars(profile: Profile, shown: Sequence[Layer], y: float) -> list[str]:
    parts = [_text(_LEFT, y, f"slowest layers of {profile.label}, ms and planned precision", "head")]
    for place, precision in enumerate(("int8", "fp16", "fp32", None)):
        x = _LEFT + 80 * place
        parts.append(f'<rect x="{x}" y="{y + 8:.0f}" width="10" height="10" fill="{_OF[precision]}"/>')
        parts.append(_text(x + 15, y + 17, precision or "not planned", "tick"))
    x_of = _scale(0, shown[0].time_ms or 1, 0, _WIDTH - _RIGHT - 380 - 90)
    for number, layer in enumerate(shown):
        top = y + 30 + _ROW * number
        wide = max(x_of(layer.time_ms), 0.5)
        name = layer.name if len(layer.name) <= 44 else f"{layer.name[:43]}\u2026"
        parts.append(_text(_LEFT - 40, top + 11, f"{name}  {layer.dtypes}"[:56], "tick"))
        bar = (
            f'<rect x="380" y="{top:.0f}" width="{wide:.1f}" height="13" fill="{_OF.get(layer.precision, _OF[None])}">'
        )
        title = f"{layer.name}: {layer.type}, {layer.time_ms:.4f} ms, {layer.share:.1%}; {', '.join(layer.nodes)}"
        parts.append(f"{bar}<title>{escape(title)}</title></rect>")
        parts.append(_text(380 + wide + 6, top + 11, f"{layer.time_ms:.3f}  {layer.share:.1%}", "tick"))
    return parts


def _y_axis(y_of: Scale, low: float, high: float, left: float, right: float) -> list[str]:
    parts = []
    for value in np.linspace(low, high, 5):
        at = y_of(float(value))
        parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(left - 6, at + 4, f"{value:.3g}", "tick end"))
    return parts


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1
    return lambda value: start + (value - low) / span * (end - start)
