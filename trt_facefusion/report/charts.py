"""Small SVG charts, drawn by hand: a page needs three kinds, and a plotting library would weigh more than the page.

Colours come from the page's style sheet by class, so that they follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_facefusion.report.svg import NAMESPACE, Element, Scale, dumps, element, make_scale, make_svg

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 44


@dataclass(frozen=True)
class _Axis:
    """What the front is drawn over: a field of its points, the factor to the unit that is shown, how it is called."""

    field: str
    factor: float
    title: str
    unit: str
    starts_at_0: bool = False

    def read(self, points: Sequence[Mapping[str, Any]]) -> list[float]:
        return [self.factor * float(point[self.field]) for point in points]

    def choose_ticks(self, xs: Sequence[float]) -> list[float]:
        """Round numbers around all of ``xs``."""
        if self.starts_at_0:
            return [0, 20, 40, 60, 80, 100]
        low, high = min(xs, default=0.0), max(xs, default=1.0)
        step = _round_up((high - low) / 4 or high / 4 or 1.0)
        first = math.floor(low / step)
        return [step * number for number in range(first, max(math.ceil(high / step), first + 1) + 1)]


_AXES = {
    "macs": _Axis("int8_macs_share", 100, "MACs in INT8", "%", starts_at_0=True),
    "size": _Axis("weights_bytes", 1e-6, "bytes of weights", "MB"),
    "time": _Axis("predicted_ms", 1, "predicted time", "ms"),
}


def draw_pareto(points: Sequence[Mapping[str, Any]], objective: str = "macs") -> Element:
    """Mean SSIM drop (y, per cent) over what the search made least of (x); the chosen plan is marked.

    Points of a search that did not know it are drawn over their share of MACs in INT8.
    """
    axis = _AXES.get(objective, _AXES["macs"])
    axis = axis if all(point.get(axis.field) is not None for point in points) else _AXES["macs"]
    xs, ys = axis.read(points), [100 * float(point["ssim_drop"]) for point in points]
    ticks, top = axis.choose_ticks(xs), _round_up(max(ys, default=0))
    x_of = make_scale(ticks[0], ticks[-1], _LEFT, _WIDTH - _RIGHT)
    y_of = make_scale(0, top, _HEIGHT - _BOTTOM, _TOP)
    marks = _draw_grid(x_of, ticks, y_of, [top * step / 4 for step in range(5)])
    line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in sorted(zip(xs, ys, strict=True)))
    marks.append(element("polyline", class_="line", points=line))
    for point, x, y in zip(points, xs, ys, strict=True):
        marked = bool(point.get("chosen"))
        title = f"{axis.title} {x:.4g} {axis.unit}, SSIM drop {y:.3f} %" + (", chosen" if marked else "")
        size, kind = (7, "chosen") if marked else (3.5, "point")
        at = {"cx": f"{x_of(x):.1f}", "cy": f"{y_of(y):.1f}", "r": size}
        marks.append(element("circle", element("title", title), class_=kind, **at))
    middle, turned = (_LEFT + _WIDTH - _RIGHT) / 2, f"translate(14 {_HEIGHT / 2}) rotate(-90)"
    name = f"{axis.title}, {axis.unit}"
    marks.append(element("text", name, class_="name", x=middle, y=_HEIGHT - 6, text_anchor="middle"))
    marks.append(element("text", "mean SSIM drop, %", class_="name", transform=turned, text_anchor="middle"))
    return make_svg(_WIDTH, _HEIGHT, f"Pareto front: SSIM drop over {axis.title}", *marks)


_STYLE = """\
svg { background: #fff; font-family: system-ui, sans-serif; } .line { fill: none; stroke: #667; stroke-width: 1.5; }
.point { fill: #667; } .chosen { fill: #0a7d4f; } .grid { stroke: #dde; } text { fill: #667; font-size: 12px; }
"""


def make_standalone(chart: Element) -> str:
    """A chart as an SVG file of its own, with the colours that a page would give it."""
    alone = element("svg", xmlns=NAMESPACE, **chart.attrib)
    style = element("style")
    style.text = _STYLE
    alone.extend([style, *chart])
    return f"{dumps(alone)}\n"


def draw_histogram(counts: Sequence[int], limit: float, amax: float, label: str) -> Element:
    """Counts over 0..``limit`` on a logarithmic y axis; a line at ``amax``, what lies above it in another colour."""
    width, height, floor = 300, 90, 76
    top = math.log10(max(*counts, 1) + 1)
    bar = width / len(counts)
    marks = []
    for index, count in enumerate(counts):
        if count:
            tall = floor * math.log10(count + 1) / top
            kind = "clipped" if index * limit / len(counts) >= amax else "bar"
            at = {"x": f"{index * bar:.2f}", "y": f"{floor - tall:.2f}"}
            marks.append(element("rect", class_=kind, **at, width=f"{bar:.2f}", height=f"{tall:.2f}"))
    x = f"{min(amax / limit, 1) * width:.1f}"
    marks.append(element("line", class_="threshold", x1=x, x2=x, y1=0, y2=floor))
    marks.append(element("text", "0", class_="tick", x=0, y=height - 2))
    marks.append(element("text", f"{limit:g}", class_="tick", x=width, y=height - 2, text_anchor="end"))
    return make_svg(width, height, label, *marks)


def draw_plan_strip(nodes: Sequence[Mapping[str, Any]]) -> Element:
    """The network from left to right: a bar for each layer that multiplies, as wide as its MACs, in its precision."""
    width, height = 1000, 46
    layers = [node for node in nodes if node.get("macs")]
    total = sum(math.sqrt(node["macs"]) for node in layers) or 1
    marks, x = [], 0.0
    for node in layers:
        wide = width * math.sqrt(node["macs"]) / total
        title = f"{node['name']} ({node['op']}), {node['macs'] / 1e6:.1f} MMACs: {node['precision']}. {node['reason']}"
        at = {"x": f"{x:.2f}", "y": 0, "width": f"{max(wide - 1, 0.5):.2f}", "height": height}
        marks.append(element("rect", element("title", title), class_=node["precision"], **at))
        x += wide
    label = "Layers in the order of the network, coloured by precision"
    return make_svg(width, height, label, *marks, preserveAspectRatio="none")


def draw_times(rows: Mapping[str, Mapping[str, float]], label: str) -> Element:
    """A bar for each row, as long as its milliseconds, made of its parts; below, which part has which colour."""
    parts = list(dict.fromkeys(part for times in rows.values() for part, time_ms in times.items() if time_ms > 0))
    longest = max((sum(times.values()) for times in rows.values()), default=0.0)
    x_of, tall = make_scale(0, longest, _LEFT, _WIDTH - 90), 30
    marks: list[Element] = []
    for number, (name, times) in enumerate(rows.items()):
        y, done = 6 + tall * number, 0.0
        marks.append(element("text", name, class_="tick", x=_LEFT - 8, y=y + 16, text_anchor="end"))
        for part, time_ms in times.items():
            if time_ms > 0:
                title = element("title", f"{name}, {part}: {time_ms:.3f} ms")
                at = {"x": f"{x_of(done):.1f}", "y": y, "width": f"{x_of(done + time_ms) - x_of(done):.1f}"}
                marks.append(element("rect", title, class_=f"part{parts.index(part)}", **at, height=tall - 8))
                done += time_ms
        marks.append(element("text", f"{done:.3f} ms", class_="tick", x=f"{x_of(done) + 8:.1f}", y=y + 16))
    below = 6 + tall * len(rows) + 8
    return make_svg(_WIDTH, below + 22, label, *marks, *_draw_legend(parts, below))


def _draw_legend(parts: Sequence[str], y: float) -> list[Element]:
    marks: list[Element] = []
    x = float(_LEFT)
    for number, part in enumerate(parts):
        marks.append(element("rect", class_=f"part{number}", x=f"{x:.0f}", y=f"{y:.0f}", width=10, height=10))
        marks.append(element("text", part, class_="tick", x=f"{x + 15:.0f}", y=f"{y + 9:.0f}"))
        x += 32 + 6.5 * len(part)
    return marks


def _draw_grid(x_of: Scale, xs: Sequence[float], y_of: Scale, ys: Sequence[float]) -> list[Element]:
    parts = []
    for y in ys:
        at = y_of(y)
        line = {"x1": _LEFT, "x2": _WIDTH - _RIGHT, "y1": f"{at:.1f}", "y2": f"{at:.1f}"}
        parts.append(element("line", class_="grid", **line))
        parts.append(element("text", f"{y:.3g}", class_="tick", x=_LEFT - 6, y=f"{at + 4:.1f}", text_anchor="end"))
    for x in xs:
        place = {"x": f"{x_of(x):.1f}", "y": _HEIGHT - _BOTTOM + 16}
        parts.append(element("text", f"{x:g}", class_="tick", **place, text_anchor="middle"))
    return parts


def _round_up(largest: float) -> float:
    """The next of 1, 2, 4, 5, 8 times a power of ten: an axis whose quarters are round."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(power * step for step in (1, 2, 4, 8, 10) if power * step >= largest * 0.999)
