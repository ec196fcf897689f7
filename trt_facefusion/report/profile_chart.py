"""The plot of a profile: one SVG that needs nothing else, or a page around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trt_facefusion.evaluation.profiling.layers import Layer
from trt_facefusion.evaluation.profiling.measure import SweepPoint
from trt_facefusion.evaluation.profiling.result import Profile
from trt_facefusion.evaluation.profiling.run import ProfileResult
from trt_facefusion.report.pages import load_templates
from trt_facefusion.report.svg import NAMESPACE, Element, Scale, dumps, element, make_scale, make_svg

LAYERS = 20
_WIDTH, _LEFT, _RIGHT = 880, 60, 20
_PANEL, _ROW = 230, 18
_COLOURS = ("#2563eb", "#d97706")
_OF = {"int8": "#16a34a", "fp16": "#2563eb", "fp32": "#7c3aed", None: "#9ca3af"}
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2937}.head{font-weight:600;font-size:14px}.tick{fill:#6b7280;"
    "font-size:11px}.axis{stroke:#d1d5db}.mid{text-anchor:middle}.end{text-anchor:end}"
)


def render_svg(profiled: ProfileResult) -> str:
    """Latency by percentile, throughput of the sweeps, and the slowest layers of the first engine."""
    return f"{dumps(_draw_chart(profiled))}\n"


def render_html(profiled: ProfileResult) -> str:
    """The plot as an HTML page."""
    template = load_templates().get_template("profile.html")
    return template.render(title=f"Profile of {profiled.one.label}", chart=dumps(_draw_chart(profiled))) + "\n"


def _draw_chart(profiled: ProfileResult) -> Element:
    profiles = [profiled.one] + ([profiled.other] if profiled.other is not None else [])
    parts: list[Element] = []
    y = 26.0
    parts += _draw_legend(profiles, y)
    y += 20 * len(profiles) + 14
    parts += _draw_latencies(profiles, y)
    y += _PANEL
    half = (_WIDTH - _LEFT - _RIGHT - 60) / 2
    parts += _draw_sweep("faces per second over batch size", [p.batches for p in profiles], y, _LEFT, half)
    flights = [p.flights for p in profiles]
    parts += _draw_sweep("faces per second over inferences in flight", flights, y, _LEFT + half + 60, half)
    y += _PANEL
    for profile in profiles:
        shown = profile.layers[:LAYERS]
        if shown:
            parts += _draw_bars(profile, shown, y)
            y += 44 + _ROW * len(shown) + 12
    style, ground = element("style"), element("rect", width="100%", height="100%", fill="#fff")
    style.text = _STYLE
    height = round(y + 10)
    drawn = make_svg(_WIDTH, height, f"Profile of {profiled.one.label}", style, ground, *parts, xmlns=NAMESPACE)
    drawn.attrib |= {"width": str(_WIDTH), "height": str(height)}
    return drawn


def _draw_legend(profiles: Sequence[Profile], y: float) -> list[Element]:
    rows = []
    for number, profile in enumerate(profiles):
        at = y + 20 * number
        stand_in = " (typed ONNX on the CPU, NOT the engine)" if profile.stand_in else ""
        text = f"{profile.label}{stand_in}: batch {profile.batch}, {profile.device}"
        rows.append(element("rect", x=_LEFT, y=f"{at - 10:.0f}", width=12, height=12, fill=_COLOURS[number]))
        rows.append(_draw_text(_LEFT + 18, at, text))
    return rows


def _draw_latencies(profiles: Sequence[Profile], y: float) -> list[Element]:
    """Every call, sorted: how long the calls of each percentile took."""
    low = min(min(p.times_ms) for p in profiles)
    high = max(max(p.times_ms) for p in profiles)
    low, high = low - 0.05 * (high - low or low), high + 0.05 * (high - low or high)
    x_of = make_scale(0, 100, _LEFT, _WIDTH - _RIGHT)
    y_of = make_scale(low, high, y + _PANEL - 60, y + 20)
    parts = [_draw_text(_LEFT, y, "latency of one call by percentile, ms", "head")]
    parts += _draw_y_axis(y_of, low, high, _LEFT, _WIDTH - _RIGHT)
    for percentile in (0, 25, 50, 75, 90, 99):
        parts.append(_draw_text(x_of(percentile), y + _PANEL - 44, f"p{percentile}", "tick mid"))
    for number, profile in enumerate(profiles):
        points = zip(np.linspace(0, 100, len(profile.times_ms)), sorted(profile.times_ms), strict=True)
        line = " ".join(f"{x_of(float(q)):.1f},{y_of(latency_ms):.1f}" for q, latency_ms in points)
        parts.append(_draw_line(line, number))
    return parts


def _draw_sweep(
    title: str, sweeps: Sequence[Sequence[SweepPoint]], y: float, left: float, width: float
) -> list[Element]:
    points = [point for sweep in sweeps for point in sweep]
    if not points:
        return []
    places = sorted({point.at for point in points})
    high = 1.1 * max(point.throughput_per_s for point in points)
    x_of = make_scale(0, max(len(places) - 1, 1), left + 10, left + width - 10)
    y_of = make_scale(0, high, y + _PANEL - 60, y + 20)
    parts = [_draw_text(left, y, title, "head"), *_draw_y_axis(y_of, 0, high, left, left + width)]
    parts += [_draw_text(x_of(number), y + _PANEL - 44, str(at), "tick mid") for number, at in enumerate(places)]
    for number, sweep in enumerate(sweeps):
        at = [(x_of(places.index(point.at)), y_of(point.throughput_per_s)) for point in sweep]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(_draw_line(line, number))
        parts += [element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, fill=_COLOURS[number]) for x, y in at]
    return parts


def _draw_bars(profile: Profile, shown: Sequence[Layer], y: float) -> list[Element]:
    parts = [_draw_text(_LEFT, y, f"slowest layers of {profile.label}, ms and planned precision", "head")]
    for place, precision in enumerate(("int8", "fp16", "fp32", None)):
        x = _LEFT + 80 * place
        parts.append(element("rect", x=x, y=f"{y + 8:.0f}", width=10, height=10, fill=_OF[precision]))
        parts.append(_draw_text(x + 15, y + 17, precision or "not planned", "tick"))
    x_of = make_scale(0, shown[0].time_ms or 1, 0, _WIDTH - _RIGHT - 380 - 90)
    for number, layer in enumerate(shown):
        top = y + 30 + _ROW * number
        wide = max(x_of(layer.time_ms), 0.5)
        name = layer.name if len(layer.name) <= 44 else f"{layer.name[:43]}\u2026"
        parts.append(_draw_text(_LEFT - 40, top + 11, f"{name}  {layer.dtypes}"[:56], "tick"))
        title = f"{layer.name}: {layer.type}, {layer.time_ms:.4f} ms, {layer.share:.1%}; {', '.join(layer.nodes)}"
        bar = {"width": f"{wide:.1f}", "height": 13, "fill": _OF.get(layer.precision, _OF[None])}
        parts.append(element("rect", element("title", title), x=380, y=f"{top:.0f}", **bar))
        parts.append(_draw_text(380 + wide + 6, top + 11, f"{layer.time_ms:.3f}  {layer.share:.1%}", "tick"))
    return parts


def _draw_y_axis(y_of: Scale, low: float, high: float, left: float, right: float) -> list[Element]:
    parts = []
    for tick in np.linspace(low, high, 5):
        at = y_of(float(tick))
        line = {"x1": f"{left:.1f}", "x2": f"{right:.1f}", "y1": f"{at:.1f}", "y2": f"{at:.1f}"}
        parts.append(element("line", class_="axis", **line))
        parts.append(_draw_text(left - 6, at + 4, f"{tick:.3g}", "tick end"))
    return parts


def _draw_text(x: float, y: float, text: str, kind: str = "") -> Element:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=kind)


def _draw_line(points: str, number: int) -> Element:
    return element("polyline", points=points, fill="none", stroke=_COLOURS[number], stroke_width=2)
