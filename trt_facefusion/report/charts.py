"""Small SVG charts, drawn by hand: a page needs three kinds, and a plotting library would weigh more than the page.

Colours come from the page's style sheet by class, so that they follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 44


def pareto(points: Sequence[Mapping[str, Any]]) -> str:
    """Mean SSIM drop (y, per cent) over the share of MACs in INT8 (x, per cent); the chosen plan is marked."""
    xs = [100 * float(point["int8_macs_share"]) for point in points]
    ys = [100 * float(point["ssim_drop"]) for point in points]
    x_of = _scale(0, 100, _LEFT, _WIDTH - _RIGHT)
    top = _round_up(max(ys, default=0))
    y_of = _scale(0, top, _HEIGHT - _BOTTOM, _TOP)
    marks = [_grid(x_of, [0, 20, 40, 60, 80, 100], y_of, [top * step / 4 for step in range(5)])]
    line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in sorted(zip(xs, ys, strict=True)))
    marks.append(f'<polyline class="line" points="{line}"/>')
    for point, x, y in zip(points, xs, ys, strict=True):
        chosen = bool(point.get("chosen"))
        title = f"{x:.1f} % of MACs in INT8, SSIM drop {y:.3f} %" + (", chosen" if chosen else "")
        size, kind = (7, "chosen") if chosen else (3.5, "point")
        circle = f'<circle class="{kind}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="{size}">'
        marks.append(f"{circle}<title>{escape(title)}</title></circle>")
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    marks.append(f'<text class="name" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">MACs in INT8, %</text>')
    marks.append(f'<text class="name" transform="translate(14 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">')
    marks.append("mean SSIM drop, %</text>")
    return _svg(_WIDTH, _HEIGHT, "Pareto front: SSIM drop over the share of MACs in INT8", marks)


_STYLE = """\
svg { background: #fff; font-family: system-ui, sans-serif; } .line { fill: none; stroke: #667; stroke-width: 1.5; }
.point { fill: #667; } .chosen { fill: #0a7d4f; } .grid { stroke: #dde; } text { fill: #667; font-size: 12px; }
"""


def standalone(chart: str) -> str:
    """A chart as an SVG file of its own, with the colours that a page would give it."""
    head, _, rest = chart.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{rest}\n'


def histogram(counts: Sequence[int], limit: float, amax: float, label: str) -> str:
    """Counts over 0..``limit`` on a logarithmic y axis; a line at ``amax``, what lies above it in another colour."""
    width, height, floor = 300, 90, 76
    top = math.log10(max(*counts, 1) + 1)
    bar = width / len(counts)
    marks = []
    for index, count in enumerate(counts):
        if count:
            tall = floor * math.log10(count + 1) / top
            kind = "clipped" if index * limit / len(counts) >= amax else "bar"
            at = f'x="{index * bar:.2f}" y="{floor - tall:.2f}" width="{bar:.2f}" height="{tall:.2f}"'
            marks.append(f'<rect class="{kind}" {at}/>')
    x = min(amax / limit, 1) * width
    marks.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{floor}"/>')
    marks.append(f'<text class="tick" x="0" y="{height - 2}">0</text>')
    marks.append(f'<text class="tick" x="{width}" y="{height - 2}" text-anchor="end">{limit:g}</text>')
    return _svg(width, height, label, marks)


def strip(nodes: Sequence[Mapping[str, Any]]) -> str:
    """The network from left to right: a bar for each layer that multiplies, as wide as its MACs, in its precision."""
    width, height = 1000, 46
    layers = [node for node in nodes if node.get("macs")]
    total = sum(math.sqrt(node["macs"]) for node in layers) or 1
    marks, x = [], 0.0
    for node in layers:
        wide = width * math.sqrt(node["macs"]) / total
        title = f"{node['name']} ({node['op']}), {node['macs'] / 1e6:.1f} MMACs: {node['precision']}. {node['reason']}"
        at = f'x="{x:.2f}" y="0" width="{max(wide - 1, 0.5):.2f}" height="{height}"'
        marks.append(f'<rect class="{escape(node["precision"])}" {at}><title>{escape(title)}</title></rect>')
        x += wide
    return _svg(width, height, "Layers in the order of the network, coloured by precision", marks, stretch=True)


def _svg(width: float, height: float, label: str, marks: Sequence[str], stretch: bool = False) -> str:
    ratio = ' preserveAspectRatio="none"' if stretch else ""
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}"{ratio}>'
    return head + "".join(marks) + "</svg>"


def _grid(x_of: Any, xs: Sequence[float], y_of: Any, ys: Sequence[float]) -> str:
    parts = []
    for y in ys:
        at = y_of(y)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x in xs:
        text = f'<text class="tick" x="{x_of(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{x:g}</text>'
        parts.append(text)
    return "".join(parts)


def _scale(low: float, high: float, start: float, end: float) -> Any:
    span = (high - low) or 1
    return lambda value: start + (value - low) / span * (end - start)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8 times a power of ten: an axis whose quarters are round."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 8, 10) if power * step >= value * 0.999)
