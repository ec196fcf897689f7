"""SVG as a tree: what is a name stays a name, because a serialiser writes every attribute and text."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

from markupsafe import Markup

from trt_facefusion.text import printable

Element = ElementTree.Element
Scale = Callable[[float], float]
"""A value -> where it stands in a picture."""
NAMESPACE = "http://www.w3.org/2000/svg"


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element with text or elements inside of it.

    In the names of attributes ``class_`` stands for ``class`` and ``text_anchor`` for ``text-anchor``. Characters that
    XML cannot hold, such as escape sequences in names, are written out.
    """
    root = ElementTree.Element(
        tag, {name.rstrip("_").replace("_", "-"): _format_value(v) for name, v in attributes.items()}
    )
    for child in children:
        if isinstance(child, str):
            root.text = (root.text or "") + _format_value(child)
        else:
            root.append(child)
    return root


def make_svg(width: float, height: float, label: str, *children: Element, **attributes: object) -> Element:
    """The ``svg`` element around ``children``; ``label`` is what a screen reader says."""
    return element("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, **attributes)


def dumps(tree: Element) -> Markup:
    """The tree as text that a page takes over as it is."""
    return Markup(ElementTree.tostring(tree, encoding="unicode"))


def make_scale(low: float, high: float, start: float, end: float) -> Scale:
    """The linear scale that takes ``low`` to ``start`` and ``high`` to ``end``."""
    span = (high - low) or 1
    return lambda number: start + (number - low) / span * (end - start)


def _format_value(attribute: object) -> str:
    return f"{attribute:g}" if isinstance(attribute, float) else printable(str(attribute))
